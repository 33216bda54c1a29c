// Package forwarding folds desired state and health into forwarding state: what
// the data plane needs, and nothing else. It is a pure function of its inputs,
// so every node that sees the same state and health computes the same tables.
package forwarding

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/maglev"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// State is what the data plane is to do.
type State struct {
	// VIPs and Pools are sorted by name.
	VIPs  []model.VIP
	Pools []Pool
	// Paths to backends, by their address. A backend without one is unresolved.
	Paths map[netip.Addr]Path
}

// Path is how packets leave for a backend, resolved down to the Ethernet header.
type Path struct {
	// Link is the index of the interface that transmits.
	Link int
	// VLAN is the 802.1Q tag to put on, 0 for none.
	VLAN uint16
	// Source and Destination are the MAC addresses of the frame.
	Source, Destination [6]byte
	// OnLink says that Destination is the backend itself, not a gateway.
	OnLink bool
	// Outer is the source address of an encapsulated packet, of the backend's family.
	Outer netip.Addr
	// MTU is the largest IP packet that the path carries, in bytes.
	MTU int
}

// Pool is a pool with its table.
type Pool struct {
	Name string
	// Backends are all backends of the pool, also those that take no new flows.
	Backends []model.BackendID
	// Members are the backends that take new flows, with their weights.
	Members []Member
	// Table has an index into Members for each slot; it is nil if there are none.
	Table []uint32
	// Slots is the size of the table, also when it is nil.
	Slots uint32
	// Reset says that without members TCP is reset instead of dropped.
	Reset bool
}

// Member is a backend that takes new flows.
type Member struct {
	ID     model.BackendID
	Weight uint32
}

// Pool returns the pool of that name, or nil.
func (s *State) Pool(name string) *Pool {
	i, found := slices.BinarySearchFunc(s.Pools, name, func(p Pool, name string) int {
		switch {
		case p.Name < name:
			return -1
		case p.Name > name:
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	return &s.Pools[i]
}

// Health tells the health of a backend of a pool.
type Health func(pool *model.Pool, id model.BackendID) model.Health

// Build computes the forwarding state of a valid, sorted desired state. Pools
// whose members are those of last keep its tables, the same slices: nothing is
// computed twice, and what did not change can be told by its address. last is
// also what on_all_down "last-known" falls back on.
func Build(desired model.State, health Health, last State) (State, error) {
	next := State{VIPs: desired.VIPs, Pools: make([]Pool, len(desired.Pools))}
	for i := range desired.Pools {
		pool, err := buildPool(&desired.Pools[i], health, last.Pool(desired.Pools[i].Name))
		if err != nil {
			return State{}, fmt.Errorf("pool %q: %w", desired.Pools[i].Name, err)
		}
		next.Pools[i] = pool
	}
	return next, nil
}

func buildPool(p *model.Pool, health Health, last *Pool) (Pool, error) {
	pool := Pool{
		Name:    p.Name,
		Members: members(p, health),
		Slots:   p.TableSize,
		Reset:   p.OnAllDown == model.OnAllDownReset,
	}
	for _, b := range p.Backends {
		pool.Backends = append(pool.Backends, b.BackendID)
	}
	if len(pool.Members) == 0 && p.OnAllDown == model.OnAllDownLastKnown && last != nil {
		pool.Members = stillWanted(p, last.Members)
	}
	if last != nil && last.Slots == pool.Slots && slices.Equal(last.Members, pool.Members) {
		pool.Members, pool.Table = last.Members, last.Table
		return pool, nil
	}
	if len(pool.Members) == 0 {
		return pool, nil
	}
	table, err := buildTable(pool.Slots, pool.Members)
	pool.Table = table
	return pool, err
}

// members are the backends that take new flows: enabled, of some weight, and up.
func members(p *model.Pool, health Health) []Member {
	var out []Member
	for _, b := range p.Backends {
		if b.State == model.Enabled && b.Weight > 0 && health(p, b.BackendID) == model.HealthUp {
			out = append(out, Member{ID: b.BackendID, Weight: b.Weight})
		}
	}
	return out
}

// stillWanted are the members that the operator still has enabled, whatever their health.
func stillWanted(p *model.Pool, last []Member) []Member {
	var out []Member
	for _, m := range last {
		if b, ok := p.Backend(m.ID); ok && b.State == model.Enabled && b.Weight > 0 {
			out = append(out, Member{ID: b.BackendID, Weight: b.Weight})
		}
	}
	return out
}

func buildTable(slots uint32, members []Member) ([]uint32, error) {
	backends := make([]maglev.Backend, len(members))
	for i, m := range members {
		backends[i] = maglev.Backend{ID: m.ID.String(), Weight: m.Weight}
	}
	return maglev.Build(slots, backends)
}

// Shares counts the slots of each member.
func (p *Pool) Shares() map[model.BackendID]uint32 {
	counts := make([]uint32, len(p.Members))
	for _, m := range p.Table {
		counts[m]++
	}
	shares := make(map[model.BackendID]uint32, len(p.Members))
	for i, m := range p.Members {
		shares[m.ID] = counts[i]
	}
	return shares
}
