package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// applied is what the packet path has, under which numbers.
type applied struct {
	vips   map[string]uint32
	places map[string]*place
	// pools by name, as last written.
	pools   map[string]forwarding.Pool
	entries []lbVipEntry
	// current is which of the two VIP tables packets use.
	current uint32
}

func newApplied() applied {
	return applied{vips: map[string]uint32{}, places: map[string]*place{}, pools: map[string]forwarding.Pool{}}
}

// Apply makes the packet path do what a forwarding state says. On error packets
// still see the old state, or, where only the clean-up failed, the new one; the
// next Apply first repeats the clean-up.
//
// The order is such that no packet meets a number before what it stands for is
// written, nor after it is taken back: backend records, slots, pool records, then
// the VIP table in one switch; then a grace period; then old numbers are free.
func (p *Plane) Apply(state forwarding.State) error {
	if err := p.retire(); err != nil {
		return err
	}
	next, err := p.plan(&state)
	if err != nil {
		return err
	}
	if err := p.prepare(next, &state); err != nil {
		return err
	}
	p.writeBackends(next, &state)
	p.writePools(next, &state)
	if err := p.writeVIPs(next); err != nil {
		return err
	}
	last := p.applied
	p.applied, p.numbers = next.applied, next.numbers
	p.gone = p.leftovers(&last)
	return p.retire()
}

// Check reports whether Apply would find room for a state; it changes nothing.
func (p *Plane) Check(state forwarding.State) error {
	_, err := p.plan(&state)
	return err
}

// planned is a state with all its numbers, none of them visible to packets yet.
type planned struct {
	applied
	numbers numbers
	table   *vipTable
}

func (p *Plane) plan(state *forwarding.State) (*planned, error) {
	next := &planned{applied: newApplied(), numbers: p.numbers.clone()}
	next.current = p.applied.current
	for i := range state.Pools {
		pool := &state.Pools[i]
		at := p.applied.places[pool.Name]
		if at != nil && at.fits(pool) {
			at = at.with(pool.Backends)
		} else {
			var err error
			if at, err = next.numbers.newPlace(pool); err != nil {
				return nil, fmt.Errorf("pool %q: %w", pool.Name, err)
			}
		}
		next.places[pool.Name] = at
		next.pools[pool.Name] = *pool
	}
	for _, v := range state.VIPs {
		id, known := p.applied.vips[v.Name]
		if !known {
			taken, err := next.numbers.vips.take(1)
			if err != nil {
				return nil, fmt.Errorf("VIP %q: %w", v.Name, err)
			}
			id = taken.start
		}
		next.vips[v.Name] = id
	}
	return next, p.planVIPTable(next, state.VIPs)
}

func (p *Plane) planVIPTable(next *planned, vips []model.VIP) error {
	next.entries = vipEntries(vips,
		func(v model.VIP) uint16 { return uint16(next.vips[v.Name]) },
		func(v model.VIP) uint16 { return uint16(next.places[v.Pool].id) })
	if slices.Equal(next.entries, p.applied.entries) {
		return nil
	}
	var err error
	next.table, err = buildVIPTable(next.entries, vipBuckets(p.limits), p.random)
	return err
}

// prepare does what may fail before the first packet sees a difference.
func (p *Plane) prepare(next *planned, state *forwarding.State) error {
	links := map[uint32]bool{}
	for _, path := range state.Paths {
		links[uint32(path.Link)] = true
	}
	for link := range links {
		err := p.maps.Egress.Put(link, link)
		// An interface that is gone takes its paths with it: packets count as drop_unresolved.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("egress interface %d: %w", link, err)
		}
	}
	for name, at := range next.places {
		last := p.applied.places[name]
		if last == nil || last.id == at.id {
			continue
		}
		for id, owner := range at.owners {
			if from, known := last.owners[id]; known {
				if err := moveCounters(p.maps.BackendCounters, last.base()+from, at.base()+owner); err != nil {
					return fmt.Errorf("counters of backend %s: %w", id, err)
				}
			}
		}
	}
	return nil
}

func (p *Plane) writeBackends(next *planned, state *forwarding.State) {
	for name, pool := range next.pools {
		at := next.places[name]
		for _, id := range pool.Backends {
			var path *forwarding.Path
			if resolved, ok := state.Paths[id.Address]; ok {
				path = &resolved
			}
			p.backends.store(at.base()+at.owners[id], backendRecord(id, path))
		}
	}
}

func (p *Plane) writePools(next *planned, state *forwarding.State) {
	for i := range state.Pools {
		pool := &state.Pools[i]
		at, last := next.places[pool.Name], p.applied.places[pool.Name]
		written, known := p.applied.pools[pool.Name]
		if known && last.id == at.id && sameTable(&written, pool) {
			continue
		}
		p.writeSlots(at, pool)
		p.pools.store(at.id, at.record())
	}
}

// sameTable compares by address, as [forwarding.Build] promises.
func sameTable(a, b *forwarding.Pool) bool {
	if len(a.Table) == 0 || len(b.Table) == 0 {
		return len(a.Table) == len(b.Table) && a.Reset == b.Reset
	}
	return &a.Table[0] == &b.Table[0]
}

// writeSlots settles every slot on its owner, one atomic word at a time.
func (p *Plane) writeSlots(at *place, pool *forwarding.Pool) {
	words := p.slotWords(at)
	if pool.Table == nil {
		nobody := uint32(lbOwnerOWNER_NONE)
		if pool.Reset {
			nobody = uint32(lbOwnerOWNER_RESET)
		}
		for i := range words {
			setSlot(&words[i], nobody)
		}
		return
	}
	owners := make([]uint32, len(pool.Members))
	for i, m := range pool.Members {
		owners[i] = at.owners[m.ID]
	}
	for i, member := range pool.Table {
		setSlot(&words[i], owners[member])
	}
}

// setSlot writes a settled slot word: owner and prior are the same.
func setSlot(word *uint32, owner uint32) {
	if settled := owner<<16 | owner; atomic.LoadUint32(word) != settled {
		atomic.StoreUint32(word, settled)
	}
}

// writeVIPs fills the table that no packet uses, then switches.
func (p *Plane) writeVIPs(next *planned) error {
	if next.table == nil {
		return nil
	}
	// A packet may still be on the other table from before the last switch.
	if err := quiesce(); err != nil {
		return err
	}
	next.current = 1 - p.applied.current
	base := next.current * vipBuckets(p.limits)
	copy(p.vips.elements[base:], next.table.buckets)
	control := &p.control.elements[0]
	table := &control.VipTable[next.current]
	table.Multiplier, table.Base, table.Shift, table.AnyPort = next.table.multiplier, base, next.table.shift, 0
	if next.table.anyPort {
		table.AnyPort = 1
	}
	atomic.StoreUint32(&control.CurrentVipTable, next.current)
	return nil
}

// retire takes back the numbers that are no longer used, once no packet can
// still be on its way with one.
func (p *Plane) retire() error {
	gone := &p.gone
	if len(gone.vips)+len(gone.places)+len(gone.backends) == 0 {
		return nil
	}
	if err := quiesce(); err != nil {
		return err
	}
	for _, id := range gone.vips {
		if err := clearCounters(p.maps.VipCounters, id); err != nil {
			return fmt.Errorf("clear the counters of a removed VIP: %w", err)
		}
	}
	for _, index := range gone.backends {
		if err := clearCounters(p.maps.BackendCounters, index); err != nil {
			return fmt.Errorf("clear the counters of a removed backend: %w", err)
		}
		p.backends.store(index, lbBackend{})
	}
	for _, id := range gone.vips {
		p.numbers.vips.give(run{id, id + 1})
	}
	for _, at := range gone.places {
		p.numbers.release(at)
	}
	p.gone = leftovers{}
	return nil
}

// leftovers are numbers in the maps that nothing applied has any more.
type leftovers struct {
	vips     []uint32
	places   []*place
	backends []uint32
}

// leftovers compares what was applied with what is now, and forgets the numbers of
// backends that left their pool.
func (p *Plane) leftovers(last *applied) leftovers {
	var gone leftovers
	for name, id := range last.vips {
		if _, kept := p.applied.vips[name]; !kept {
			gone.vips = append(gone.vips, id)
		}
	}
	for name, at := range last.places {
		if now := p.applied.places[name]; now == nil || now.id != at.id {
			gone.places = append(gone.places, at)
			for _, owner := range at.owners {
				gone.backends = append(gone.backends, at.base()+owner)
			}
		}
	}
	for name, pool := range p.applied.pools {
		at := p.applied.places[name]
		if len(at.owners) == len(pool.Backends) {
			continue
		}
		kept := *at
		kept.owners = maps.Clone(at.owners)
		wanted := make(map[model.BackendID]bool, len(pool.Backends))
		for _, id := range pool.Backends {
			wanted[id] = true
		}
		for id, owner := range at.owners {
			if !wanted[id] {
				delete(kept.owners, id)
				gone.backends = append(gone.backends, at.base()+owner)
			}
		}
		p.applied.places[name] = &kept
	}
	return gone
}
