package main

import "github.com/steelyard-lb/steelyard/pkg/flux"

// scheme is a way in which the balancers of a fleet choose backends.
type scheme interface {
	// move gives every slot the owner that a new table has for it.
	move(owners []uint32, now flux.Tick)
	// packet says where a balancer sends a packet of the flow with that hash.
	packet(balancer int, hash uint64, p flux.Packet, now flux.Tick) uint32
	// kill makes a balancer forget all; revive brings it back.
	kill(balancer int)
	revive(balancer int, now flux.Tick)
	// sweep forgets flows that have ended or idled out.
	sweep(now flux.Tick)
	// tracked counts the entries of all flow tables.
	tracked() int
}

type namedScheme struct {
	name string
	scheme
}

func schemes(owners []uint32, balancers int, idle flux.Tick) []namedScheme {
	settled := func() *fluxNode { return newFluxNode(owners, idle) }
	own := make([]*fluxNode, balancers)
	for i := range own {
		own[i] = settled()
	}
	return []namedScheme{
		{"stateless", &stateless{owners}},
		{"table-per-balancer", newTablePerBalancer(owners, balancers, idle)},
		{"flux-own-table", &fluxOwn{own, owners, idle}},
		{"flux-synchronised", &fluxSynchronised{settled()}},
	}
}

// everybody may get and keep flows: backends that leave drain, and no flow meets
// one that is gone.
func everybody(uint32) flux.Ability { return flux.TakesFlows | flux.KeepsFlows }

// slotOf is the slot of a hash, as the packet path takes it.
func slotOf(hash uint64, slots int) uint32 {
	return uint32((hash >> 32) * uint64(slots) >> 32)
}

// flowTable is what a balancer remembers of flows.
type flowTable map[uint64]flux.Entry

// expire forgets flows that have ended or idled out.
func (t flowTable) expire(now, idle flux.Tick) {
	for hash, e := range t {
		limit := idle
		if e.Closing {
			limit = min(idle, closingIdle)
		}
		// A time stamp may lag.
		if flux.Age(now, e.Seen) > limit+flux.RefreshAge {
			delete(t, hash)
		}
	}
}

// stateless is Maglev's table and nothing else.
type stateless struct{ owners []uint32 }

func (s *stateless) move(owners []uint32, _ flux.Tick) { s.owners = owners }
func (s *stateless) kill(int)                          {}
func (s *stateless) revive(int, flux.Tick)             {}
func (s *stateless) sweep(flux.Tick)                   {}
func (s *stateless) tracked() int                      { return 0 }
func (s *stateless) packet(_ int, hash uint64, _ flux.Packet, _ flux.Tick) uint32 {
	return s.owners[slotOf(hash, len(s.owners))]
}

// tablePerBalancer is the classic: each balancer remembers every flow that it
// sees, for itself.
type tablePerBalancer struct {
	owners []uint32
	tables []flowTable
	idle   flux.Tick
}

func newTablePerBalancer(owners []uint32, balancers int, idle flux.Tick) *tablePerBalancer {
	s := &tablePerBalancer{owners: owners, tables: make([]flowTable, balancers), idle: idle}
	for i := range s.tables {
		s.tables[i] = flowTable{}
	}
	return s
}

func (s *tablePerBalancer) move(owners []uint32, _ flux.Tick) { s.owners = owners }
func (s *tablePerBalancer) kill(balancer int)                 { s.tables[balancer] = flowTable{} }
func (s *tablePerBalancer) revive(int, flux.Tick)             {}

func (s *tablePerBalancer) packet(balancer int, hash uint64, p flux.Packet, now flux.Tick) uint32 {
	table := s.tables[balancer]
	e, known := table[hash]
	if !known {
		e.Backend = s.owners[slotOf(hash, len(s.owners))]
	}
	e.Seen, e.Closing = now, e.Closing || p.Closer
	table[hash] = e
	return e.Backend
}

func (s *tablePerBalancer) sweep(now flux.Tick) {
	for _, table := range s.tables {
		table.expire(now, s.idle)
	}
}

func (s *tablePerBalancer) tracked() int {
	n := 0
	for _, table := range s.tables {
		n += len(table)
	}
	return n
}

// fluxNode is slots and a flow table under the rules of pkg/flux.
type fluxNode struct {
	slots *flux.Table
	flows flowTable
	idle  flux.Tick
}

func newFluxNode(owners []uint32, idle flux.Tick) *fluxNode {
	words := make([]flux.Word, len(owners))
	for i, owner := range owners {
		words[i] = flux.Settled(owner)
	}
	return &fluxNode{flux.Adopt(words, 0), flowTable{}, idle}
}

func (n *fluxNode) move(owners []uint32, now flux.Tick) {
	for slot, owner := range owners {
		n.slots.Move(uint32(slot), owner, now)
	}
}

func (n *fluxNode) packet(hash uint64, p flux.Packet, now flux.Tick) uint32 {
	words := n.slots.Words()
	word := words[slotOf(hash, len(words))]
	if !word.InFlux() {
		return word.Owner()
	}
	var known *flux.Entry
	if e, found := n.flows[hash]; found {
		known = &e
	}
	backend, next := flux.Route(flux.Choice{Owner: word.Owner(), Prior: word.Prior()}, known, p, now, everybody)
	n.flows[hash] = next
	return backend
}

func (n *fluxNode) sweep(now flux.Tick) {
	n.flows.expire(now, n.idle)
	words := n.slots.Words()
	held := map[uint32]bool{}
	for hash, e := range n.flows {
		if slot := slotOf(hash, len(words)); words[slot].Owner() != e.Backend {
			held[slot] = true
		}
	}
	n.slots.Settle(now, now, n.idle+flux.RefreshAge, func(slot uint32) bool { return held[slot] })
}

// fluxOwn has each balancer know what itself has seen.
type fluxOwn struct {
	nodes  []*fluxNode // nil while they are gone
	owners []uint32
	idle   flux.Tick
}

func (s *fluxOwn) move(owners []uint32, now flux.Tick) {
	s.owners = owners
	for _, n := range s.nodes {
		if n != nil {
			n.move(owners, now)
		}
	}
}

func (s *fluxOwn) packet(balancer int, hash uint64, p flux.Packet, now flux.Tick) uint32 {
	return s.nodes[balancer].packet(hash, p, now)
}

func (s *fluxOwn) kill(balancer int) { s.nodes[balancer] = nil }

// revive has a balancer begin with the table of now, settled: it knows no other.
func (s *fluxOwn) revive(balancer int, _ flux.Tick) {
	s.nodes[balancer] = newFluxNode(s.owners, s.idle)
}

func (s *fluxOwn) sweep(now flux.Tick) {
	for _, n := range s.nodes {
		if n != nil {
			n.sweep(now)
		}
	}
}

func (s *fluxOwn) tracked() int {
	sum := 0
	for _, n := range s.nodes {
		if n != nil {
			sum += len(n.flows)
		}
	}
	return sum
}

// fluxSynchronised has each balancer know what every other one does: slots and
// entries, as if they were in one place.
type fluxSynchronised struct{ node *fluxNode }

func (s *fluxSynchronised) move(owners []uint32, now flux.Tick) { s.node.move(owners, now) }
func (s *fluxSynchronised) kill(int)                            {}
func (s *fluxSynchronised) revive(int, flux.Tick)               {}
func (s *fluxSynchronised) sweep(now flux.Tick)                 { s.node.sweep(now) }
func (s *fluxSynchronised) tracked() int                        { return len(s.node.flows) }
func (s *fluxSynchronised) packet(_ int, hash uint64, p flux.Packet, now flux.Tick) uint32 {
	return s.node.packet(hash, p, now)
}
