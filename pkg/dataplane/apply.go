package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// applied is what the packet path has, under which numbers.
type applied struct {
	vips   map[string]*vip
	places map[string]*place
	// pools by name, as last written.
	pools map[string]forwarding.Pool
	paths forwarding.Paths
	// node are the sources that hold for all VIPs.
	node model.NodeSources
	// listed are the VIPs as they were asked for, nil if they may be something else to
	// packets by now; directory is what they are.
	listed    []model.VIP
	directory *directory
}

// vip is a VIP with its numbers and what became of its former pool.
type vip struct {
	model.VIP
	id    uint32
	place *place
	// prior is the place that it had when it was last settled, nil while it is.
	prior *place
	// priorAffinity is the affinity that it had then.
	priorAffinity model.Affinity
	// visited are the places that it has had since then, the present one apart, and
	// those that nobody was left on.
	visited []*place
	// serverIDs are the lengths of the QUIC server IDs that it knows.
	serverIDs uint32
	// since says when it went in flux, moved when its place last changed.
	since, moved flux.Tick
	idle         flux.Tick
	tracks       bool
	// gaveCookies: connections may have begun with a SYN cookie.
	gaveCookies bool
	guarded     bool
}

// idleOf is the age beyond which an entry of the VIP has expired.
func (v *vip) idleOf(e flux.Entry) flux.Tick {
	if e.Closing {
		return min(v.idle, closingIdle)
	}
	return v.idle
}

func newApplied() applied {
	return applied{vips: map[string]*vip{}, places: map[string]*place{}, pools: map[string]forwarding.Pool{}}
}

// Apply makes the packet path do what a forwarding state says. On error packets
// still see the old state.
//
// The order is such that no packet meets a number before what it stands for is
// written: backend records, slots, pool records, then the VIP table in one
// switch, source lists and guards before it; only then are backends that are gone stripped. Numbers that are not used
// any more are free once no slot and no flow names them, which a later [Plane.Sweep]
// finds out.
func (p *Plane) Apply(state forwarding.State) error {
	next, err := p.plan(&state)
	if err != nil {
		return err
	}
	if err := p.prepare(next, &state); err != nil {
		return err
	}
	if err := p.fillSourceLists(next.lists); err != nil {
		return err
	}
	if p.renumbers(next) {
		if err := p.record(next); err != nil {
			return err
		}
	}
	p.epoch++
	p.commitNumbers(next, &state)
	p.writeRooms(next)
	p.writeBackends(next, &state)
	p.writePools(next, &state)
	p.writeNATTimeouts(next.vips)
	if err := p.addServerIDs(next); err != nil {
		return err
	}
	p.writeGuards(next)
	err = p.writeVIPs(next.directory, next.table)
	p.retire(next)
	p.noteRooms()
	if err != nil {
		return err
	}
	if err := p.dropGuards(next.lists); err != nil {
		return err
	}
	p.stripBackends()
	if err := p.dropServerIDs(); err != nil {
		return err
	}
	p.writeIdle()
	return p.reclaimUntouched()
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
	// owners are the numbers of backends of places that get new ones.
	owners map[*place]map[model.BackendID]uint32
	table  *vipTable
	lists  map[string]*model.SourceList
}

func (p *Plane) plan(state *forwarding.State) (*planned, error) {
	next := &planned{applied: newApplied(), numbers: p.numbers.clone(), owners: map[*place]map[model.BackendID]uint32{}}
	for i := range state.Pools {
		pool := &state.Pools[i]
		at := p.applied.places[pool.Name]
		if at != nil && at.fits(pool) {
			next.owners[at] = at.numbered(pool.Backends)
		} else {
			var err error
			if at, err = next.numbers.newPlace(pool); err != nil {
				return nil, fmt.Errorf("pool %q: %w", pool.Name, err)
			}
		}
		next.places[pool.Name] = at
		next.pools[pool.Name] = *pool
	}
	if err := countEndpoints(state.VIPs, p.limits.Endpoints); err != nil {
		return nil, err
	}
	var err error
	if next.lists, err = p.wantedLists(state); err != nil {
		return nil, err
	}
	next.paths, next.node, next.listed = state.Paths, state.Sources, state.VIPs
	kept := p.keepsVIPs(next)
	if kept {
		next.vips = p.applied.vips
	} else if err := p.planVIPs(next); err != nil {
		return nil, err
	}
	if err := p.countServerIDs(next); err != nil {
		return nil, err
	}
	if kept {
		next.directory = p.directory
		return next, nil
	}
	next.directory = buildDirectory(next.vips, next.node, otherGuard(p.limits), next.ownersOf)
	if err := countReplies(next.directory, state.VIPs, p.limits.Endpoints); err != nil {
		return nil, err
	}
	if next.directory.equal(p.directory) {
		next.directory = p.directory
		return next, nil
	}
	next.table, err = buildVIPTable(next.directory.entries, vipEntries(p.limits), p.random)
	return next, err
}

// keepsVIPs reports whether a plan leaves every VIP what it is to packets: they are the very
// ones that packets have, on the same places, whose backends have got no more numbers.
func (p *Plane) keepsVIPs(next *planned) bool {
	was := &p.applied
	if len(next.listed) == 0 || len(next.listed) != len(was.listed) || &next.listed[0] != &was.listed[0] ||
		next.node != was.node || was.directory != p.directory || len(next.places) != len(was.places) {
		return false
	}
	for name, at := range next.places {
		if was.places[name] != at || len(next.owners[at]) != len(at.owners) {
			return false
		}
	}
	for _, v := range was.vips {
		if v.gaveCookies != p.hasGivenCookies(v.id) || v.QUIC && p.renamesBackends(v, next) {
			return false
		}
	}
	return true
}

func (p *Plane) planVIPs(next *planned) error {
	for _, v := range next.listed {
		planned, err := p.planVIP(next, v)
		if err != nil {
			return fmt.Errorf("VIP %q: %w", v.Name, err)
		}
		p.planServerIDs(planned, next)
		next.vips[v.Name] = planned
	}
	return nil
}

// ownersOf are the numbers that backends of a place have under the plan.
func (next *planned) ownersOf(at *place) map[model.BackendID]uint32 {
	if owners, planned := next.owners[at]; planned {
		return owners
	}
	return at.owners
}

// planVIP numbers a VIP. One that is on another place than before is in flux, and
// keeps its prior place through any number of changes, until it settles.
func (p *Plane) planVIP(next *planned, v model.VIP) (*vip, error) {
	planned := &vip{
		VIP:     v,
		place:   next.places[v.Pool],
		idle:    idleTicks(v.IdleTimeout),
		tracks:  v.Tracking == model.TrackingAlways,
		guarded: guarded(v.Sources, next.node) || v.Limits.Any(),
	}
	before := p.applied.vips[v.Name]
	if before == nil {
		taken, err := next.numbers.vips.take(1)
		planned.id = taken.start
		return planned, err
	}
	planned.id, planned.since, planned.moved = before.id, before.since, before.moved
	planned.gaveCookies = p.hasGivenCookies(before.id)
	planned.prior, planned.priorAffinity, planned.visited = before.prior, before.priorAffinity, before.visited
	turned := affinityRecord(v.Name, before.Affinity) != affinityRecord(v.Name, v.Affinity)
	// What began is remembered with its backend; only connection IDs may name one that the
	// VIP has left, in packets from where their client has moved to.
	if v.Tracking == model.TrackingNone || v.Mode == model.ModeFullNAT && !v.QUIC {
		planned.prior, planned.visited = nil, nil
		return planned, nil
	}
	if turned && before.changesAffinity() {
		return nil, errAffinityInFlux
	}
	if turned || before.place != planned.place {
		planned.moved = p.now
		if before.prior == nil {
			planned.prior, planned.priorAffinity, planned.since = before.place, before.Affinity, p.now
		}
	}
	if before.place != planned.place {
		planned.visited = slices.DeleteFunc(append(slices.Clone(before.visited), before.place), func(at *place) bool { return at == planned.place })
	}
	return planned, nil
}

// errAffinityInFlux: flows are found by the affinity that they began under, and
// by the one before, but not by a third.
var errAffinityInFlux = errors.New("its affinity has changed a short while ago, and connections are still where the former one led them; change it again when they have ended or been idle for the idle timeout, or set tracking to none and let them break")

// renumbers reports whether a plan changes what the ledger says.
func (p *Plane) renumbers(next *planned) bool {
	for name, at := range next.places {
		if p.applied.places[name] != at || len(next.owners[at]) != len(at.owners) {
			return true
		}
	}
	for name, v := range next.vips {
		was := p.applied.vips[name]
		if was == nil || was.place != v.place || was.prior != v.prior || was.Affinity != v.Affinity {
			return true
		}
	}
	return len(next.places) != len(p.applied.places) || len(next.vips) != len(p.applied.vips)
}

// prepare does what may fail before the first packet sees a difference.
func (p *Plane) prepare(next *planned, state *forwarding.State) error {
	links := map[uint32]bool{}
	if !state.Paths.Same(p.applied.paths) {
		for _, path := range state.Paths {
			links[uint32(path.Link)] = true
		}
	}
	for link := range links {
		if err := p.sendsThrough(link); err != nil {
			return err
		}
	}
	for name, at := range next.places {
		last := p.applied.places[name]
		if last == nil || last == at {
			continue
		}
		for id, owner := range at.owners {
			if from, known := last.owners[id]; known {
				p.backendCounters.copyFrom(&p.backendCounters, last.base()+from, at.base()+owner)
			}
		}
	}
	return nil
}

// sendsThrough lets packets leave through an interface.
func (p *Plane) sendsThrough(link uint32) error {
	err := p.maps.Egress.Put(link, link)
	// An interface that is gone takes its paths with it: packets count as drop_unresolved.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("egress interface %d: %w", link, err)
	}
	return nil
}

// commitNumbers makes the plan's numbers those of the places.
func (p *Plane) commitNumbers(next *planned, state *forwarding.State) {
	p.numbers = next.numbers
	p.applied.listed = nil // if this comes to nothing, they are not what their numbers say
	for i := range state.Pools {
		pool := &state.Pools[i]
		at := next.places[pool.Name]
		if owners, known := next.owners[at]; known {
			at.owners = owners
		} else {
			at.table = flux.Adopt(p.slotWords(at), p.now)
			p.occupy(at, at)
		}
	}
}

// occupy notes whose the backend records of a place are; nil frees them.
func (p *Plane) occupy(at, by *place) {
	for i := at.backends.start; i < at.backends.end; i++ {
		p.placeByBackend[i] = by
	}
}

// writeRooms sets the rooms of all backends, before their records say whether they count.
func (p *Plane) writeRooms(next *planned) {
	for name, at := range next.places {
		if pool := next.pools[name]; !at.written.numbered(pool.Backends) {
			p.planRooms(at, &pool)
		}
	}
}

// writeBackends writes the record of every backend, also of those of former
// places of a pool, which flows may still be on.
func (p *Plane) writeBackends(next *planned, state *forwarding.State) {
	for name, at := range next.places {
		pool := next.pools[name]
		p.writePlace(at, &pool, state.Paths)
	}
	for _, at := range p.allPlaces() {
		if pool, kept := next.pools[at.pool]; kept && next.places[at.pool] != at {
			p.writePlace(at, &pool, state.Paths)
		}
	}
}

// stripBackends takes from backends that left their pools what they may be given.
func (p *Plane) stripBackends() {
	inUse := make(map[*place]bool, len(p.applied.places))
	for _, v := range p.applied.vips {
		inUse[v.place] = true
	}
	for _, at := range p.allPlaces() {
		if pool, kept := p.applied.pools[at.pool]; kept && !at.written.stripped(pool.Backends) {
			p.stripPlace(at, &pool, inUse[p.applied.places[at.pool]])
		}
	}
}

func (p *Plane) writePools(next *planned, state *forwarding.State) {
	for i := range state.Pools {
		pool := &state.Pools[i]
		at := next.places[pool.Name]
		if !at.written.owned(pool) {
			p.moveSlots(at, pool)
			p.pools.store(at.id, at.record())
		}
	}
}

// moveSlots gives every slot the owner that the pool's table has for it.
func (p *Plane) moveSlots(at *place, pool *forwarding.Pool) {
	at.written.slots, at.written.table, at.written.reset = true, pool.Table, pool.Reset
	if pool.Table == nil {
		nobody := uint32(lbOwnerOWNER_NONE)
		if pool.Reset {
			nobody = uint32(lbOwnerOWNER_RESET)
		}
		for slot := range at.slots {
			at.table.Move(slot, nobody, p.now)
		}
		return
	}
	owners := make([]uint32, len(pool.Members))
	for i, m := range pool.Members {
		owners[i] = at.owners[m.ID]
	}
	for slot, member := range pool.Table.Owners() {
		at.table.Move(uint32(slot), owners[member], p.now)
	}
}

// rewriteVIPs gives packets the VIPs as they are now.
func (p *Plane) rewriteVIPs() error {
	listed := buildDirectory(p.applied.vips, p.applied.node, otherGuard(p.limits), (*place).backendNumbers)
	table, err := buildVIPTable(listed.entries, vipEntries(p.limits), p.random)
	if err != nil {
		return err
	}
	return p.writeVIPs(listed, table)
}

// writeVIPs fills the table that no packet uses, then switches; no table means
// that nothing changes.
func (p *Plane) writeVIPs(s *directory, t *vipTable) error {
	if t == nil {
		return nil
	}
	// A packet may still be on the other table from before the last switch.
	if err := quiesce(); err != nil {
		return err
	}
	control := &p.control.elements[0]
	next := 1 - control.CurrentVipTable
	base := next * vipEntries(p.limits)
	half := halfOf(next, p.limits)
	entries := p.vips.elements[base:]
	copy(entries, t.entries)
	for i := range t.entries {
		half.rebase(&entries[i])
	}
	ranges := p.ranges.elements[half.ranges:]
	copy(ranges, s.ranges)
	for i := range s.ranges {
		half.rebase(&ranges[i].Vip)
	}
	for id, terms := range s.terms {
		p.terms.store(uint32(half.terms)+id, terms)
	}
	copy(p.endpoints.elements[half.endpoints:], s.endpoints)
	displacements := p.displacements.elements[0].Of[:]
	firstGroup := next * uint32(len(displacements)) / 2
	copy(displacements[firstGroup:], t.displacements)
	control.VipTable[next] = t.record(base, uint16(firstGroup))
	atomic.StoreUint32(&control.CurrentVipTable, next)
	p.directory = s
	return nil
}

// half is where what one of the two VIP tables names begins.
type half struct{ terms, ranges, endpoints uint16 }

func halfOf(table uint32, limits Limits) half {
	return half{terms: uint16(table * limits.VIPs), ranges: uint16(table * portRanges(limits)), endpoints: uint16(table * limits.Endpoints)}
}

func (h half) rebase(e *lbVipEntry) {
	switch {
	case e.Flags&uint16(lbVipFlagVIP_RANGES) != 0:
		e.Terms += h.ranges
	case e.Endpoint&endpointReply != 0:
		e.Terms += h.endpoints
	default:
		e.Terms += h.terms
	}
}

// writeIdle tells the packet path at what age any flow has expired.
func (p *Plane) writeIdle() {
	idle := flux.Tick(1)
	for _, v := range p.applied.vips {
		idle = max(idle, v.idle+1)
	}
	atomic.StoreUint32(&p.control.elements[0].Idle, uint32(idle))
}

// retire makes the plan what is applied, and remembers what nothing applied has
// any more.
func (p *Plane) retire(next *planned) {
	for name, at := range p.applied.places {
		if next.places[name] != at {
			p.ghosts = append(p.ghosts, ghost{at, p.epoch})
		}
	}
	for name, v := range p.applied.vips {
		if next.vips[name] == nil {
			p.goneVIPs = append(p.goneVIPs, goneVIP{v.id, p.epoch})
		}
	}
	p.applied = next.applied
	p.vipByID = make(map[uint32]*vip, len(next.vips))
	for _, v := range next.vips {
		p.vipByID[v.id] = v
	}
}

// allPlaces are the places of pools, and those that flows may still be on.
func (p *Plane) allPlaces() []*place {
	all := slices.Collect(maps.Values(p.applied.places))
	for _, g := range p.ghosts {
		all = append(all, g.place)
	}
	return all
}
