package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/xdp"
)

// natSources are the addresses and ports that connections of fullnat come from, which
// are numbered: those of IPv4 first.
type natSources struct {
	IPv4  netip.Prefix    `json:"ipv4"`
	IPv6  netip.Prefix    `json:"ipv6"`
	Ports model.PortRange `json:"ports"`
}

// DefaultNATPorts are the ports but for the well-known ones.
func DefaultNATPorts() model.PortRange { return model.PortRange{First: 1024, Last: 65535} }

// Each address has a translation for each port of TCP, then one for each of UDP.
const (
	natPorts        = 1 << 16
	natUDP          = natPorts
	natPerAddress   = 2 * natPorts
	natPortsPerLine = 512
	natPortsPerWord = 64
)

func sourcesOf(o Options) natSources {
	s := natSources{o.NATSourceIPv4.Masked(), o.NATSourceIPv6.Masked(), o.NATPorts}
	if s.Ports.Any() {
		s.Ports = DefaultNATPorts()
	}
	return s
}

// addresses is how many a prefix has, 0 if there is none.
func addresses(p netip.Prefix) uint32 {
	if !p.IsValid() {
		return 0
	}
	return 1 << (p.Addr().BitLen() - p.Bits())
}

func (s natSources) count() uint32 { return addresses(s.IPv4) + addresses(s.IPv6) }

// serves reports whether connections to a backend have an address to come from.
func (s natSources) serves(backend netip.Addr) bool {
	if backend.Is4() {
		return s.IPv4.IsValid()
	}
	return s.IPv6.IsValid()
}

// translations is how many there may be, of all ports.
func (s natSources) translations() uint32 { return max(1, s.count()*natPerAddress) }

// capacity is how many connections there may be.
func (s natSources) capacity() uint32 { return s.count() * 2 * s.portCount() }

func (s natSources) portCount() uint32 { return uint32(s.Ports.Last-s.Ports.First) + 1 }

// sessionBuckets is the number of buckets of eight: four words for each connection.
func (s natSources) sessionBuckets() uint32 { return ceilPowerOfTwo(s.capacity() / 2) }

// natHome is how many ports a connection may have at home; see bpf/home.h.
const natHome = 4

// isAtHome reports whether a translation is one of those where packets of a client's flow
// look for theirs before they look among sessions.
func (s natSources) isAtHome(f Flow, hash uint64, index uint32) bool {
	first, many := uint32(0), addresses(s.IPv4)
	if f.Destination.Addr().Is6() {
		first, many = many, addresses(s.IPv6)
	}
	if many == 0 {
		return false
	}
	home := (first + uint32(hash>>32)&(many-1)) * natPerAddress
	if f.Protocol == model.UDP {
		home |= natUDP
	}
	home += uint32(s.Ports.First) + uint32(uint64(uint32(hash))*uint64(s.portCount())>>32)
	return home^index < natHome
}

// address is that of a number.
func (s natSources) address(number uint32) netip.Addr {
	if four := addresses(s.IPv4); number < four {
		base := s.IPv4.Addr().As4()
		binary.BigEndian.PutUint32(base[:], binary.BigEndian.Uint32(base[:])|number)
		return netip.AddrFrom4(base)
	} else {
		number -= four
	}
	base := s.IPv6.Addr().As16()
	binary.BigEndian.PutUint32(base[12:], binary.BigEndian.Uint32(base[12:])|number)
	return netip.AddrFrom16(base)
}

// number is that of an address; false if no connection comes from there.
func (s natSources) number(a netip.Addr) (uint32, bool) {
	switch {
	case a.Is4() && s.IPv4.IsValid() && s.IPv4.Contains(a):
		from, at := s.IPv4.Addr().As4(), a.As4()
		return binary.BigEndian.Uint32(at[:]) - binary.BigEndian.Uint32(from[:]), true
	case a.Is6() && s.IPv6.IsValid() && s.IPv6.Contains(a):
		from, at := s.IPv6.Addr().As16(), a.As16()
		return addresses(s.IPv4) + binary.BigEndian.Uint32(at[12:]) - binary.BigEndian.Uint32(from[12:]), true
	}
	return 0, false
}

// constants are those of the packet path.
func (s natSources) constants() map[string]any {
	c := map[string]any{
		lbVarNatSourcesIpv4: addresses(s.IPv4),
		lbVarNatSourcesIpv6: addresses(s.IPv6),
		lbVarNatFirstPort:   uint32(s.Ports.First),
		lbVarNatPortCount:   s.portCount(),
		lbVarSessionMask:    s.sessionBuckets() - 1,
	}
	if s.IPv4.IsValid() {
		base := s.IPv4.Addr().As4()
		c[lbVarNatSourceIpv4] = binary.LittleEndian.Uint32(base[:])
	}
	if s.IPv6.IsValid() {
		c[lbVarNatSourceIpv6] = xdp.Words(s.IPv6.Addr())
	}
	return c
}

func (s natSources) size(spec *ebpf.CollectionSpec) {
	spec.Maps[lbMapTranslations].MaxEntries = s.translations()
	spec.Maps[lbMapSessions].MaxEntries = s.sessionBuckets()
	spec.Maps[lbMapNatPorts].MaxEntries = (s.translations() + natPortsPerLine - 1) / natPortsPerLine
}

// NAT tells what connections of fullnat have of their ports.
func (p *Plane) NAT() model.NATPorts {
	return model.NATPorts{
		Used: p.stats.Translations, Capacity: uint64(p.natSources.capacity()),
		Opened: p.events.Opened, Evicted: p.events.EvictedOpen, Exhausted: p.events.Exhausted,
	}
}

// natTickShift makes the translations' clock of the kernel's, see bpf/translation.h.
const natTickShift = 27

// natTicks rounds a duration up to ticks of the translations' clock.
func natTicks(d time.Duration) uint32 { return uint32((d + 1<<natTickShift - 1) >> natTickShift) }

// natRefreshAge is by how many ticks what a translation says of time may lag behind.
const natRefreshAge = 4

// natTransitory is how long a connection is remembered that has not begun, or has ended.
const natTransitory = uint32(60 * time.Second >> natTickShift)

// writeNATTimeouts tells packets how long connections of VIPs may be silent, and how many
// may begin in a second. A VIP that is new has given no cookie.
func (p *Plane) writeNATTimeouts(vips map[string]*vip) {
	for name, v := range vips {
		p.natTimeouts.store(v.id, lbNatTimeout{Idle: natTicks(v.IdleTimeout) + natRefreshAge, SynRate: v.SYNCookies})
		if p.applied.vips[name] == nil {
			p.synGiven.store(v.id, 0)
		}
	}
}

// The key of a backend's answers, see bpf/packet.h.
const endpointReply = 1 << 25

// answer is where a backend's packets come from that answer clients of an endpoint.
type answer struct {
	backend  netip.Addr
	protocol model.Protocol
	ports    model.PortRange
}

// answerOf is that of a backend to an endpoint.
func answerOf(id model.BackendID, e model.Endpoint, protocol model.Protocol) answer {
	if id.Port != 0 {
		return answer{id.Address, protocol, model.Port(id.Port)}
	}
	return answer{id.Address, protocol, e.Ports}
}

// natEndpoint is an endpoint as answers show it; the port is the backend's where that
// is the same.
func natEndpoint(v *vip, e model.Endpoint) lbNatEndpoint {
	r := lbNatEndpoint{Address: address(e.Address), Vip: uint16(v.id)}
	if e.Ports.Single() {
		r.Port = bits.ReverseBytes16(e.Ports.First)
	}
	if v.splices() {
		r.Flags = uint32(lbVipFlagVIP_SYN_COOKIES)
	}
	return r
}

// addReplies adds the keys by which answers to nat VIPs are found: those of the
// backends that they have, then, where the key is not taken, of those that they had.
func (s *directory) addReplies(vips []*vip, owners func(*place) map[model.BackendID]uint32) {
	taken := map[answer]bool{}
	wide := map[wideKey][]wideClaim{}
	index := map[*vip]int{}
	for _, v := range vips {
		index[v] = len(s.endpoints)
		for _, e := range v.Endpoints {
			s.endpoints = append(s.endpoints, natEndpoint(v, e))
		}
	}
	for _, former := range []bool{false, true} {
		for _, v := range vips {
			places := []*place{v.place}
			if former {
				places = append(v.visited, v.prior)
			}
			for _, at := range places {
				if at == nil {
					continue
				}
				for _, id := range sortedIDs(owners(at)) {
					s.addAnswers(v, id, index[v], taken, wide)
				}
			}
		}
	}
	s.addWide(wide, endpointReply)
}

// addAnswers adds the keys of a backend's answers to a VIP's clients.
func (s *directory) addAnswers(v *vip, id model.BackendID, first int, taken map[answer]bool, wide map[wideKey][]wideClaim) {
	for i, e := range v.Endpoints {
		a := answerOf(id, e, v.Protocol)
		if taken[a] {
			continue
		}
		taken[a] = true
		entry := lbVipEntry{Vip: uint16(v.id), Mode: uint8(lbModeMODE_NAT), Terms: uint16(first + i)}
		s.replies++
		if a.ports.Single() {
			s.add(a.backend, endpointReply|endpoint(a.protocol, a.ports.First), entry)
			continue
		}
		entry.Endpoint = endpointReply
		key := wideKey{a.backend, a.protocol}
		wide[key] = append(wide[key], wideClaim{a.ports, entry})
	}
}

// countReplies refuses more keys than the maps were made for.
func countReplies(s *directory, vips []model.VIP, limit uint32) error {
	if s.replies == 0 {
		return nil
	}
	n := s.replies
	for i := range vips {
		n += len(vips[i].Endpoints)
	}
	if n > int(limit) {
		return fmt.Errorf("the VIPs' endpoints and, of mode nat, what their backends answer from, make %d, and there is room for %d; raise limits.endpoints in the configuration", n, limit)
	}
	return nil
}
