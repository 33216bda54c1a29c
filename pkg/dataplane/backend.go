package dataplane

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The words of an outer IPv4 header that never change; see write_outer_ipv4 in bpf/rewrite.h.
const (
	outerVersionLength = 0x4500
	outerDontFragment  = 0x4000
	outerTTL           = 64 << 8
)

// writePlace writes the records of a place's backends.
func (p *Plane) writePlace(at *place, pool *forwarding.Pool, paths forwarding.Paths) {
	if at.written.resolved(pool.Backends, paths) {
		return
	}
	at.written.backends, at.written.paths = pool.Backends, paths
	for _, b := range pool.Backends {
		owner, known := at.owners[b.ID]
		if !known {
			continue
		}
		var path *forwarding.Path
		if resolved, ok := paths[b.ID.Address]; ok {
			path = &resolved
		}
		record := backendRecord(b.ID, path, p.natSources)
		record.Able = able(b)
		p.backends.store(at.base()+owner, record)
	}
}

// stripPlace notes which backends have left the pool of a place, and takes from them
// what they may be given. While no VIP uses the pool they keep the flows that VIPs
// may have left there when they moved away, and go on to when one moves in again.
func (p *Plane) stripPlace(at *place, pool *forwarding.Pool, inUse bool) {
	wanted := make(map[model.BackendID]bool, len(pool.Backends))
	for _, b := range pool.Backends {
		wanted[b.ID] = true
		delete(at.left, b.ID)
	}
	for id, owner := range at.owners {
		if _, noted := at.left[id]; noted || wanted[id] {
			continue
		}
		at.left[id] = p.epoch
		var record lbBackend
		// Who had left before the daemon was restarted was told then what to keep.
		if !inUse || at.adopted {
			record = p.backends.elements[at.base()+owner]
			record.Able &= uint8(lbAbilityKEEPS_FLOWS | lbAbilityLIMITED)
		}
		p.backends.store(at.base()+owner, record)
	}
	at.adopted, at.written.strippedOf = false, pool.Backends
}

func able(b forwarding.Backend) uint8 {
	var a lbAbility
	if b.Takes {
		a |= lbAbilityTAKES_FLOWS
	}
	if b.Keeps {
		a |= lbAbilityKEEPS_FLOWS
	}
	if b.MaxConnections > 0 {
		a |= lbAbilityLIMITED
	}
	return uint8(a)
}

// backendRecord resolves a backend for the packet path; without a path it is unresolved.
func backendRecord(id model.BackendID, path *forwarding.Path, sources natSources) lbBackend {
	if path == nil {
		// Packets from it are known by its address.
		b := lbBackend{Port: bits.ReverseBytes16(id.Port), OuterDestination: address(id.Address)}
		if id.Address.Is4() {
			b.OuterIpv4 = 1
		}
		return b
	}
	b := lbBackend{
		Ifindex: uint32(path.Link),
		Vlan:    bits.ReverseBytes16(path.VLAN),
		Mtu:     uint16(min(path.MTU, math.MaxUint16)),
		Port:    bits.ReverseBytes16(id.Port),
		Modes:   1 << lbModeMODE_NAT,

		OuterDestination: address(id.Address),
	}
	if sources.serves(id.Address) {
		b.Modes |= 1 << lbModeMODE_FULLNAT
	}
	copy(b.Mac[:6], path.Destination[:])
	copy(b.Mac[6:], path.Source[:])
	if path.OnLink {
		b.Modes |= 1 << lbModeMODE_DSR_L2
	}
	if path.Outer.IsValid() && path.Outer.Is4() == id.Address.Is4() {
		b.Modes |= 1<<lbModeMODE_DSR_IPIP | 1<<lbModeMODE_DSR_GUE
		b.OuterSource = address(path.Outer)
		b.OuterAddresses = foldedSum(0, path.Outer, id.Address)
	}
	if id.Address.Is4() {
		b.OuterIpv4 = 1
	}
	if id.Address.Is4() && path.Outer.Is4() {
		b.OuterChecksum = outerChecksum(path.Outer, id.Address)
	}
	return b
}

// outerChecksum sums the constant words of an outer IPv4 header.
func outerChecksum(source, destination netip.Addr) uint16 {
	return foldedSum(outerVersionLength+outerDontFragment+outerTTL, source, destination)
}

// foldedSum adds addresses to a sum of 16-bit words and folds it, in the byte order
// in which the packet path adds others: as they lie on the wire.
func foldedSum(sum uint32, addresses ...netip.Addr) uint16 {
	for _, a := range addresses {
		for b := a.AsSlice(); len(b) > 0; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
	}
	for sum > math.MaxUint16 {
		sum = sum&math.MaxUint16 + sum>>16
	}
	return bits.ReverseBytes16(uint16(sum))
}
