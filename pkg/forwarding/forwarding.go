// Package forwarding folds desired state and health into forwarding state: what
// the data plane needs, and nothing else. It is a pure function of its inputs,
// so every node that sees the same state and health computes the same tables.
package forwarding

import (
	"fmt"
	"net/netip"
	"reflect"
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
	Paths Paths
	// SourceLists are sorted by name; Sources hold for all VIPs.
	SourceLists []model.SourceList
	Sources     model.NodeSources
	// Next is when time alone will change the result, zero if it will not.
	Next time.Time
}

// Paths are never written to once they are part of a State.
type Paths map[netip.Addr]Path

// Same reports whether these are the very same.
func (p Paths) Same(other Paths) bool {
	return reflect.ValueOf(p).UnsafePointer() == reflect.ValueOf(other).UnsafePointer()
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
	// Table says which of Members each slot belongs to; it is nil if there are none.
	Table Table
	// Slots is the size of the table, also when it is nil.
	Slots uint32
	// Reset says that without members TCP is reset instead of dropped.
	Reset bool
}

// Table is whose the slots of a pool are. It is computed when it is asked for, and nobody
// needs it for long: what packets meet is in the data plane's maps. [maglev.Table] is one.
type Table interface {
	// Owners has an index into the pool's members for each slot.
	Owners() []uint32
	// Shares counts the slots of each member.
	Shares() []uint32
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
// members or backends are those of last keep its slices and its table, the same ones: nothing
// is computed twice, and what did not change can be told by its address. last is also what
// on_all_down "last-known" falls back on. Nothing of a State may be written to.
func Build(desired model.State, health Health, full Full, now time.Time, last State) (State, error) {
	next := State{VIPs: desired.VIPs, Pools: make([]Pool, len(desired.Pools)), SourceLists: desired.SourceLists, Sources: desired.Sources}
	b := builder{health: health, full: full, now: now}
	for i := range desired.Pools {
		pool, err := b.build(&desired.Pools[i], last.Pool(desired.Pools[i].Name))
		if err != nil {
			return State{}, fmt.Errorf("pool %q: %w", pool.Name, err)
		}
		next.Pools[i] = pool
	}
	next.Next = b.next
	return next, nil
}

// builder builds pools, one after the other.
type builder struct {
	health Health
	full   Full
	now    time.Time
	// next is when time alone changes the result, zero if it does not.
	next time.Time

	// The pool at hand, and what is found out about it, in memory that the next one has again.
	*model.Pool
	seen     []observation
	usable   []Member
	withRoom []Member
	backends []Backend
}

// observation is what was seen of a backend, and whether it takes new flows for that.
type observation struct {
	health model.Health
	since  time.Time
	takes  bool
}

func (b *builder) build(of *model.Pool, last *Pool) (Pool, error) {
	pool := Pool{
		Name:  of.Name,
		Slots: of.TableSize,
		Reset: of.OnAllDown == model.OnAllDownReset,
	}
	if last == nil {
		last = &Pool{}
	}
	b.Pool = of
	b.observe()
	members := b.members(last)
	b.describe()
	if pool.Backends = last.Backends; !slices.EqualFunc(b.backends, last.Backends, sameBackend) {
		pool.Backends = slices.Clone(b.backends)
	}
	if slices.Equal(members, last.Members) && pool.Slots == last.Slots {
		pool.Members, pool.Table = last.Members, last.Table
		return pool, nil
	}
	if len(members) == 0 {
		return pool, nil
	}
	pool.Members = slices.Clone(members)
	table, err := tableOf(pool.Slots, pool.Members)
	if err != nil {
		return pool, err
	}
	pool.Table = table
	return pool, nil
}

func sameBackend(a, b Backend) bool {
	return a.ID == b.ID && a.Takes == b.Takes && a.Keeps == b.Keeps && a.MaxConnections == b.MaxConnections && slices.Equal(a.ServerIDs, b.ServerIDs)
}

// until notes that the result changes at a moment, if that is yet to come.
func (b *builder) until(t time.Time) {
	if t.After(b.now) && (b.next.IsZero() || t.Before(b.next)) {
		b.next = t
	}
}

// observe looks at each backend once.
func (b *builder) observe() {
	b.seen = b.seen[:0]
	for i := range b.Backends {
		health, since := b.health(b.Pool, b.Backends[i].BackendID)
		b.seen = append(b.seen, observation{health: health, since: since})
	}
}

// members are the backends that have slots: those that may take new flows and are not full;
// all of them if all are full, for none is worse than others then.
func (b *builder) members(last *Pool) []Member {
	b.findUsable()
	b.withRoom = b.withRoom[:0]
	for _, m := range b.usable {
		if !b.full(b.Name, m.ID) {
			b.withRoom = append(b.withRoom, m)
		}
	}
	switch {
	case len(b.withRoom) > 0:
		return b.withRoom
	case len(b.usable) == 0 && b.OnAllDown == model.OnAllDownLastKnown:
		return b.stillWanted(last.Members)
	}
	return b.usable
}

// findUsable finds the backends that may take new flows: enabled, of some weight, and up.
func (b *builder) findUsable() {
	b.usable = b.usable[:0]
	ramping := false
	for i := range b.Backends {
		m, seen := &b.Backends[i], &b.seen[i]
		if m.State != model.Enabled || m.Weight == 0 || seen.health != model.HealthUp {
			continue
		}
		seen.takes = true
		ramping = ramping || b.slowStart(seen.since) < slowStartSteps
		b.usable = append(b.usable, Member{ID: m.BackendID, Weight: m.Weight})
	}
	if !ramping {
		return
	}
	at := 0
	for _, seen := range b.seen {
		if seen.takes {
			b.usable[at].Weight *= b.slowStart(seen.since)
			at++
		}
	}
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

// describe tells what each backend may be given. One that checks call down keeps
// its flows for a grace; one that is disabled does not.
func (b *builder) describe() {
	b.backends = b.backends[:0]
	for i := range b.Backends {
		m, seen := &b.Backends[i], b.seen[i]
		keeps := m.State != model.Disabled
		if seen.health == model.HealthDown && !seen.takes && keeps {
			end := seen.since.Add(b.DownGrace)
			keeps = end.After(b.now)
			b.until(end)
		}
		b.backends = append(b.backends, Backend{ID: m.BackendID, Takes: seen.takes, Keeps: keeps, MaxConnections: m.MaxConnections, ServerIDs: m.ServerIDs})
	}
}

// stillWanted are the members that the operator still has enabled, whatever their health.
func (b *builder) stillWanted(last []Member) []Member {
	var out []Member
	for _, m := range last {
		i := slices.IndexFunc(b.Backends, func(other model.Backend) bool { return other.BackendID == m.ID })
		if i >= 0 && b.Backends[i].State == model.Enabled && b.Backends[i].Weight > 0 {
			b.seen[i].takes = true
			out = append(out, Member{ID: m.ID, Weight: b.Backends[i].Weight})
		}
	}
	return out
}

func tableOf(slots uint32, members []Member) (*maglev.Table, error) {
	backends := make([]maglev.Backend, len(members))
	for i, m := range members {
		backends[i] = maglev.Backend{ID: m.ID.String(), Weight: m.Weight}
	}
	return maglev.New(slots, backends)
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
	shares := make(map[model.BackendID]uint32, len(p.Members))
	if p.Table != nil {
		for i, share := range p.Table.Shares() {
			shares[p.Members[i].ID] = share
		}
	}
	return shares
}
