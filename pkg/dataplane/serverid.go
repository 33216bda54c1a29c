package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// serverIDsPerBackend is how many server IDs there is room for, for each backend
// there may be: that of one configuration and of the one that takes its place. Those of a
// pool count for each VIP that carries QUIC.
const serverIDsPerBackend = 2

// serverIDBits is how many bits of a VIP's terms tell the length of the server IDs
// of one configuration.
const serverIDBits = 4

// planServerIDs notes the lengths of the server IDs of a VIP's pool, beside those of
// pools and backends that connections of it may still be on.
func (p *Plane) planServerIDs(v *vip, next *planned) {
	if !v.QUIC {
		return
	}
	if before := p.applied.vips[v.Name]; before != nil && (v.prior != nil || len(v.place.left) > 0) {
		v.serverIDs = before.serverIDs
	}
	pool := next.pools[v.Pool]
	for _, b := range pool.Backends {
		for _, id := range b.ServerIDs {
			shift := serverIDBits * id.Config
			v.serverIDs = v.serverIDs&^((1<<serverIDBits-1)<<shift) | uint32(len(id.ID))<<shift
		}
	}
}

// renamesBackends reports whether a VIP that stays has to know server IDs of other lengths.
func (p *Plane) renamesBackends(v *vip, next *planned) bool {
	again := *v
	again.serverIDs = 0
	p.planServerIDs(&again, next)
	return again.serverIDs != v.serverIDs
}

// serverIDsOf are what connection IDs of a VIP call the backends of its pool.
func serverIDsOf(v *vip, pool *forwarding.Pool, owners map[model.BackendID]uint32) map[lbServerId]uint32 {
	if !v.QUIC {
		return nil
	}
	ids := map[lbServerId]uint32{}
	for _, b := range pool.Backends {
		for _, id := range b.ServerIDs {
			key := lbServerId{Vip: uint16(v.id), Config: id.Config}
			copy(key.Id[:], id.ID)
			ids[key] = v.place.base() + owners[b.ID]
		}
	}
	return ids
}

// countServerIDs refuses more names than the map was made for, those that are still
// there counted in.
func (p *Plane) countServerIDs(next *planned) error {
	known := maps.Clone(p.serverIDs)
	for _, v := range next.vips {
		pool := next.pools[v.Pool]
		owners, numbered := next.owners[v.place]
		if !numbered {
			owners = v.place.owners
		}
		maps.Copy(known, serverIDsOf(v, &pool, owners))
	}
	if room := int(serverIDsPerBackend * p.limits.Backends); len(known) > room {
		return fmt.Errorf("the VIPs that carry QUIC have %d server IDs in all, and there is room for %d; raise limits.backends in the configuration", len(known), room)
	}
	return nil
}

// addServerIDs names the backends of VIPs that carry QUIC.
func (p *Plane) addServerIDs(next *planned) error {
	for _, v := range next.vips {
		pool := next.pools[v.Pool]
		for key, backend := range serverIDsOf(v, &pool, v.place.owners) {
			if known, ok := p.serverIDs[key]; ok && known == backend {
				continue
			}
			if err := p.maps.ServerIds.Put(key, backend); err != nil {
				return fmt.Errorf("VIP %q: server ID %x: %w", v.Name, key.Id, err)
			}
			p.serverIDs[key] = backend
		}
	}
	return nil
}

// dropServerIDs takes the names away that no backend has any more, and that no
// connection has any use for.
func (p *Plane) dropServerIDs() error {
	wanted := map[lbServerId]uint32{}
	for _, v := range p.applied.vips {
		pool := p.applied.pools[v.Pool]
		maps.Copy(wanted, serverIDsOf(v, &pool, v.place.owners))
	}
	for key, backend := range p.serverIDs {
		v := p.vipByID[uint32(key.Vip)]
		if _, ok := wanted[key]; ok || v != nil && v.QUIC && v.mayBeOn(p.placeOf(backend), backend) {
			continue
		}
		if err := p.maps.ServerIds.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("server ID %x: %w", key.Id, err)
		}
		delete(p.serverIDs, key)
	}
	return nil
}

// mayBeOn reports whether connections of a VIP may be on a backend of a place that
// is none of its pool: one of a place that the VIP has left, and not settled since, or
// one that has left the pool, until nobody is on it.
func (v *vip) mayBeOn(at *place, backend uint32) bool {
	if slices.Contains(v.visited, at) {
		return true
	}
	if at != v.place {
		return false
	}
	for id := range at.left {
		if at.base()+at.owners[id] == backend {
			return true
		}
	}
	return false
}

// adoptServerIDs takes over the names in a map of a former daemon.
func (p *Plane) adoptServerIDs(from *ebpf.Map) error {
	var key lbServerId
	var backend uint32
	entries := from.Iterate()
	for entries.Next(&key, &backend) {
		p.serverIDs[key] = backend
		if from == p.maps.ServerIds {
			continue
		}
		if err := p.maps.ServerIds.Put(key, backend); err != nil {
			return fmt.Errorf("server ID %x: %w", key.Id, err)
		}
	}
	return entries.Err()
}
