// Package forwarding folds desired state and health into forwarding state: what
// the data plane needs, and nothing else. It is a pure function of its inputs,
// so every node that sees the same state and health computes the same tables.
package forwarding

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

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
	// SourceLists are sorted by name; Sources hold for all VIPs.
	SourceLists []model.SourceList
	Sources     model.NodeSources
	// Next is when time alone will change the result, zero if it will not.
	Next time.Time
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
	Backends []Backend
	// Members are the backends that take new flows, with their weights.
	Members []Member
	// Table has an index into Members for each slot; it is nil if there are none.
	Table []uint32
	// Slots is the size of the table, also when it is nil.
	Slots uint32
	// Reset says that without members TCP is reset instead of dropped.
	Reset bool
}

// Backend is a backend of a pool and what it may still be given.
type Backend struct {
	ID model.BackendID
	// Takes new flows; keeps the flows that it has. One that is full takes them if it
	// comes to have room.
	Takes, Keeps bool
	// MaxConnections that it may have at once, 0: any number.
	MaxConnections uint32
	// ServerIDs name it in QUIC connection IDs.
	ServerIDs []model.ServerID
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

// Health tells the health of a backend of a pool, and since when.
type Health func(pool *model.Pool, id model.BackendID) (model.Health, time.Time)

// Full tells whether a backend of a pool has as many connections as it may have.
type Full func(pool string, id model.BackendID) bool

// Nobody is full.
func Nobody(string, model.BackendID) bool { return false }

// Build computes the forwarding state of a valid, sorted desired state at a
// moment. A backend that is full has no slots while another one is not. Pools whose
// members are those of last keep its tables, the same slices: nothing is computed twice,
// and what did not change can be told by its address. last is also what on_all_down
// "last-known" falls back on.
func Build(desired model.State, health Health, full Full, now time.Time, last State) (State, error) {
	next := State{VIPs: desired.VIPs, Pools: make([]Pool, len(desired.Pools)), SourceLists: desired.SourceLists, Sources: desired.Sources}
	for i := range desired.Pools {
		b := builder{Pool: &desired.Pools[i], health: health, full: full, now: now}
		pool, err := b.build(last.Pool(b.Name))
		if err != nil {
			return State{}, fmt.Errorf("pool %q: %w", b.Name, err)
		}
		next.Pools[i] = pool
		if !b.next.IsZero() && (next.Next.IsZero() || b.next.Before(next.Next)) {
			next.Next = b.next
		}
	}
	return next, nil
}

// builder builds one pool.
type builder struct {
	*model.Pool
	health Health
	full   Full
	now    time.Time
	// next is when time alone changes the result, zero if it does not.
	next time.Time
}

func (b *builder) build(last *Pool) (Pool, error) {
	pool := Pool{
		Name:  b.Name,
		Slots: b.TableSize,
		Reset: b.OnAllDown == model.OnAllDownReset,
	}
	usable := b.usable()
	pool.Members = b.withRoom(usable)
	if len(pool.Members) == 0 && b.OnAllDown == model.OnAllDownLastKnown && last != nil {
		pool.Members = stillWanted(b.Pool, last.Members)
	}
	pool.Backends = b.backends(slices.Concat(usable, pool.Members))
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

// until notes that the result changes at a moment, if that is yet to come.
func (b *builder) until(t time.Time) {
	if t.After(b.now) && (b.next.IsZero() || t.Before(b.next)) {
		b.next = t
	}
}

// withRoom are those that are not full; all if all are: none of them is worse than others.
func (b *builder) withRoom(usable []Member) []Member {
	out := slices.DeleteFunc(slices.Clone(usable), func(m Member) bool { return b.full(b.Name, m.ID) })
	if len(out) == 0 {
		return usable
	}
	return out
}

// usable are the backends that may take new flows: enabled, of some weight, and up.
func (b *builder) usable() []Member {
	var out []Member
	var steps []uint32
	ramping := false
	for i := range b.Backends {
		m := &b.Backends[i]
		health, since := b.health(b.Pool, m.BackendID)
		if m.State != model.Enabled || m.Weight == 0 || health != model.HealthUp {
			continue
		}
		step := b.slowStart(since)
		ramping = ramping || step < slowStartSteps
		out, steps = append(out, Member{ID: m.BackendID, Weight: m.Weight}), append(steps, step)
	}
	for i := range out {
		if ramping {
			out[i].Weight *= steps[i]
		}
	}
	return out
}

// slowStartSteps is in how many equal steps a backend grows to its weight.
const slowStartSteps = 10

// slowStart is how many steps of its weight a backend has that came up at a moment.
func (b *builder) slowStart(since time.Time) uint32 {
	length := b.SlowStart / slowStartSteps
	if length <= 0 || since.IsZero() {
		return slowStartSteps
	}
	step := max(b.now.Sub(since), 0) / length
	if step+1 >= slowStartSteps {
		return slowStartSteps
	}
	b.until(since.Add((step + 1) * length))
	return uint32(step) + 1
}

// backends tells what each backend may be given. One that checks call down keeps
// its flows for a grace; one that is disabled does not.
func (b *builder) backends(taking []Member) []Backend {
	takes := make(map[model.BackendID]bool, len(taking))
	for _, m := range taking {
		takes[m.ID] = true
	}
	out := make([]Backend, len(b.Backends))
	for i := range b.Backends {
		m := &b.Backends[i]
		out[i] = Backend{ID: m.BackendID, Takes: takes[m.BackendID], Keeps: m.State != model.Disabled, MaxConnections: m.MaxConnections, ServerIDs: m.ServerIDs}
		health, since := b.health(b.Pool, m.BackendID)
		if health == model.HealthDown && !out[i].Takes && out[i].Keeps {
			end := since.Add(b.DownGrace)
			out[i].Keeps = end.After(b.now)
			b.until(end)
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

// Keeping tells which backends get packets of the flows that they have.
func (p *Pool) Keeping() map[model.BackendID]bool {
	keeping := make(map[model.BackendID]bool, len(p.Backends))
	for _, b := range p.Backends {
		keeping[b.ID] = b.Keeps
	}
	return keeping
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
