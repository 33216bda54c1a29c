package dataplane

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
)

// serverIDsPerBackend is how many server IDs there is room for, for each backend
// there may be: that of one configuration and of the one that takes its place.
const serverIDsPerBackend = 2

// serverIDBits is how many bits of a pool's record tell the length of the server
// IDs of one configuration.
const serverIDBits = 4

// serverIDsOf are what QUIC connection IDs call the backends of a pool.
func serverIDsOf(at *place, pool *forwarding.Pool) map[lbServerId]uint32 {
	ids := map[lbServerId]uint32{}
	for _, b := range pool.Backends {
		for _, id := range b.ServerIDs {
			key := lbServerId{Pool: uint16(at.id), Config: id.Config}
			copy(key.Id[:], id.ID)
			ids[key] = at.base() + at.owners[b.ID]
		}
	}
	return ids
}

// serverIDLengths are the lengths of a pool's server IDs, by configuration.
func serverIDLengths(pool *forwarding.Pool) uint32 {
	lengths := uint32(0)
	for _, b := range pool.Backends {
		for _, id := range b.ServerIDs {
			shift := serverIDBits * id.Config
			lengths = lengths&^(1<<serverIDBits-1<<shift) | uint32(len(id.ID))<<shift
		}
	}
	return lengths
}

// addServerIDs names the backends of a state.
func (p *Plane) addServerIDs(next *planned, state *forwarding.State) error {
	for i := range state.Pools {
		pool := &state.Pools[i]
		for key, backend := range serverIDsOf(next.places[pool.Name], pool) {
			if known, ok := p.serverIDs[key]; ok && known == backend {
				continue
			}
			if err := p.maps.ServerIds.Put(key, backend); err != nil {
				return fmt.Errorf("server ID %x of pool %q: %w", key.Id, pool.Name, err)
			}
			p.serverIDs[key] = backend
		}
	}
	return nil
}

// dropServerIDs takes the names away that no backend has any more. Those of places
// that VIPs have left stay, for their connections.
func (p *Plane) dropServerIDs() error {
	wanted := map[lbServerId]uint32{}
	for _, at := range p.allPlaces() {
		pool, kept := p.applied.pools[at.pool]
		if !kept {
			pool = forwarding.Pool{}
		}
		if p.applied.places[at.pool] == at {
			for key, backend := range serverIDsOf(at, &pool) {
				wanted[key] = backend
			}
			continue
		}
		for key, backend := range p.serverIDs {
			if uint32(key.Pool) == at.id {
				wanted[key] = backend
			}
		}
	}
	for key := range p.serverIDs {
		if _, ok := wanted[key]; ok {
			continue
		}
		if err := p.maps.ServerIds.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("server ID %x: %w", key.Id, err)
		}
		delete(p.serverIDs, key)
	}
	return nil
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
