package dataplane

import (
	"fmt"
	"maps"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// A number is free again once nothing names it: no slot as owner or prior, no VIP
// as its pool or prior pool, and no flow. Flows are known from sweeps; only one
// that began after the number was given up counts.

// ghost is a place that no pool has any more.
type ghost struct {
	*place
	epoch uint64
}

type goneVIP struct {
	id    uint32
	epoch uint64
}

// leaving counts the numbers of backends that left their pool.
func (p *Plane) leaving() int {
	n := len(p.goneVIPs)
	for _, at := range p.allPlaces() {
		n += len(at.left)
	}
	return n
}

// reclaimUntouched takes numbers back at once where no flow was ever remembered.
func (p *Plane) reclaimUntouched() error {
	if len(p.ghosts) == 0 && p.leaving() == 0 {
		return nil
	}
	events, err := p.FlowEvents()
	if err != nil || events.Remembered > 0 || events.Opened > 0 {
		return err
	}
	s, err := newSweep(p.now, p.epoch)
	if err != nil {
		return err
	}
	reclaimed, err := p.reclaim(s)
	if err != nil || !reclaimed {
		return err
	}
	return p.record(nil)
}

// freed are numbers that nothing names.
type freed struct {
	ghosts   []ghost
	vips     []uint32
	backends []freeBackend
}

type freeBackend struct {
	at *place
	id model.BackendID
}

func (p *Plane) findFree(s *sweep) freed {
	var free freed
	inUse := map[*place]bool{}
	for _, v := range p.applied.vips {
		inUse[v.place], inUse[v.prior] = true, true
	}
	for _, g := range p.ghosts {
		if g.epoch <= s.epoch && !inUse[g.place] && !s.onPlace(g.place) {
			free.ghosts = append(free.ghosts, g)
		}
	}
	for _, v := range p.goneVIPs {
		if v.epoch <= s.epoch && s.vips[v.id] == 0 {
			free.vips = append(free.vips, v.id)
		}
	}
	for _, at := range p.allPlaces() {
		for id, epoch := range at.left {
			owner := at.owners[id]
			if epoch <= s.epoch && s.backends[at.base()+owner] == 0 && !at.table.Names(owner) {
				free.backends = append(free.backends, freeBackend{at, id})
			}
		}
	}
	return free
}

// onPlace reports whether a live flow is on a backend of the place.
func (s *sweep) onPlace(at *place) bool {
	for index := range s.backends {
		if index >= at.backends.start && index < at.backends.end {
			return true
		}
	}
	return false
}

// reclaim takes back what a whole pass showed to be free, and reports whether
// that was anything.
func (p *Plane) reclaim(s *sweep) (bool, error) {
	free := p.findFree(s)
	if len(free.ghosts)+len(free.vips)+len(free.backends) == 0 {
		return false, nil
	}
	// A packet may have read a number just before it was given up.
	if err := quiesce(); err != nil {
		return false, err
	}
	for _, id := range free.vips {
		p.vipCounters.clear(id)
		if err := p.clearGuardCounters(id); err != nil {
			return false, fmt.Errorf("clear the counters of a removed VIP: %w", err)
		}
	}
	for _, b := range free.backends {
		p.clearBackend(b.at.base() + b.at.owners[b.id])
	}
	for _, g := range free.ghosts {
		for _, owner := range g.owners {
			p.clearBackend(g.base() + owner)
		}
	}
	p.dropFragments(free)
	p.forget(free)
	return true, p.dropServerIDs()
}

func (p *Plane) clearBackend(index uint32) {
	p.backendCounters.clear(index)
	p.backends.store(index, lbBackend{})
	p.rooms.store(index, lbRoom{})
}

// forget gives the numbers back.
func (p *Plane) forget(free freed) {
	p.applied.listed = nil // some of them may have had to do with what is free
	for _, id := range free.vips {
		p.numbers.vips.give(run{id, id + 1})
		p.goneVIPs = slices.DeleteFunc(p.goneVIPs, func(v goneVIP) bool { return v.id == id })
	}
	for _, b := range free.backends {
		// Plans share the map of numbers.
		b.at.owners = maps.Clone(b.at.owners)
		delete(b.at.owners, b.id)
		delete(b.at.left, b.id)
		b.at.written = written{}
	}
	for _, g := range free.ghosts {
		for i := range g.table.Words() {
			g.table.Reset(uint32(i))
		}
		p.occupy(g.place, nil)
		p.numbers.release(g.place)
		p.ghosts = slices.DeleteFunc(p.ghosts, func(other ghost) bool { return other.place == g.place })
		for _, v := range p.applied.vips {
			v.visited = slices.DeleteFunc(slices.Clone(v.visited), func(at *place) bool { return at == g.place })
		}
	}
}
