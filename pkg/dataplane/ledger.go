package dataplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// ledger says what the numbers in the maps stand for. It is kept in a map beside
// them, so that it lives and dies with what it describes, and is written before a
// number is first used and after one was last used: a daemon that is killed at any
// point leaves a ledger that names every number in use.
type ledger struct {
	Limits Limits            `json:"limits"`
	Seed   Seed              `json:"seed"`
	NAT    natSources        `json:"nat"`
	Links  map[string]string `json:"links,omitempty"` // interface to mode
	Places []ledgerPlace     `json:"places,omitempty"`
	VIPs   []ledgerVIP       `json:"vips,omitempty"`
	Gone   []uint32          `json:"gone_vips,omitempty"`
}

type ledgerPlace struct {
	Pool     string            `json:"pool"`
	ID       uint32            `json:"id"`
	Slots    uint32            `json:"slots"`
	Lines    [2]uint32         `json:"lines"`
	Backends [2]uint32         `json:"backends"`
	Owners   map[string]uint32 `json:"owners,omitempty"`
	// Ghost: no pool has the place any more.
	Ghost bool `json:"ghost,omitempty"`
}

type ledgerVIP struct {
	Name  string  `json:"name"`
	ID    uint32  `json:"id"`
	Place uint32  `json:"place"`
	Prior *uint32 `json:"prior,omitempty"`
	// Affinity is what packets of the VIP meet, PriorAffinity what they met when
	// it was last settled.
	Affinity      model.Affinity `json:"affinity"`
	PriorAffinity model.Affinity `json:"prior_affinity"`
	// Visited are places between the prior and the present one.
	Visited   []uint32 `json:"visited,omitempty"`
	ServerIDs uint32   `json:"server_ids,omitempty"`
}

// The first page of the map says which of its two halves counts, and how long
// what stands there is.
const (
	ledgerPageSize  = 4096
	ledgerMagic     = 0x737465656c796172 // "steelyar"
	ledgerWordMagic = 0
	ledgerWordHalf  = 1
	ledgerWordSize  = 2 // of half 0; that of half 1 follows
)

// ledgerPages is the size of the map: room for two ledgers of all that the limits
// allow, with names of some length.
func ledgerPages(limits Limits) uint32 {
	bytes := uint64(limits.VIPs)*128 + uint64(limits.Pools)*256 + uint64(limits.Backends)*64 + ledgerPageSize
	return 1 + 2*uint32((bytes+ledgerPageSize-1)/ledgerPageSize)
}

// writeLedger writes the idle half, then makes it the one that counts.
func (p *Plane) writeLedger(l *ledger) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	head := &p.ledger.elements[0].Word
	half := 1 - head[ledgerWordHalf]&1
	room := ledgerHalf(p.ledger, half)
	if len(data) > len(room) {
		return fmt.Errorf("the ledger of numbers takes %d bytes and there is room for %d; use shorter names or raise the limits in the configuration", len(data), len(room))
	}
	copy(room, data)
	head[ledgerWordSize+half] = uint64(len(data))
	atomic.StoreUint64(&head[ledgerWordMagic], ledgerMagic)
	atomic.StoreUint64(&head[ledgerWordHalf], half)
	return nil
}

func ledgerHalf(m memory[lbLedgerPage], half uint64) []byte {
	pages := uint64(len(m.elements)-1) / 2
	first := &m.elements[1+half*pages]
	return unsafe.Slice((*byte)(unsafe.Pointer(first)), pages*ledgerPageSize)
}

// readLedger reads the ledger of this seed from a map.
func (p *Plane) readLedger(m memory[lbLedgerPage]) (*ledger, error) {
	head := &m.elements[0].Word
	if head[ledgerWordMagic] != ledgerMagic {
		return nil, errors.New("the ledger of numbers was never written")
	}
	half := head[ledgerWordHalf] & 1
	room := ledgerHalf(m, half)
	size := head[ledgerWordSize+half]
	if size > uint64(len(room)) {
		return nil, errors.New("the ledger of numbers is damaged")
	}
	var l ledger
	if err := json.Unmarshal(room[:size], &l); err != nil {
		return nil, fmt.Errorf("the ledger of numbers is damaged: %w", err)
	}
	if l.Seed != p.seed {
		return nil, errors.New("hash_seed is not the one by which the flows there were placed")
	}
	return &l, nil
}

// record writes down the numbers in use, and those of a plan about to be.
func (p *Plane) record(next *planned) error {
	if p.pin == nil {
		return nil
	}
	l := &ledger{Limits: p.limits, Seed: p.seed, NAT: p.natSources, Links: map[string]string{}}
	for _, a := range p.attached {
		l.Links[a.name] = a.mode
	}
	vips, seen := p.applied.vips, map[*place]bool{}
	if next != nil {
		vips = next.vips
		for _, at := range next.places {
			seen[at] = true
			l.Places = append(l.Places, at.entry(next.owners[at], false))
		}
	}
	for _, at := range p.applied.places {
		if !seen[at] {
			seen[at] = true
			l.Places = append(l.Places, at.entry(nil, next != nil))
		}
	}
	for _, g := range p.ghosts {
		l.Places = append(l.Places, g.entry(nil, true))
	}
	for _, v := range vips {
		l.VIPs = append(l.VIPs, v.ledgerEntry())
	}
	for name, v := range p.applied.vips {
		if next != nil && next.vips[name] == nil {
			l.Gone = append(l.Gone, v.id)
		}
	}
	for _, v := range p.goneVIPs {
		l.Gone = append(l.Gone, v.id)
	}
	return p.writeLedger(l)
}

// entry describes a place, with these numbers instead of its own if there are some.
func (at *place) entry(owners map[model.BackendID]uint32, ghost bool) ledgerPlace {
	if owners == nil {
		owners = at.owners
	}
	e := ledgerPlace{
		Pool: at.pool, ID: at.id, Slots: at.slots, Ghost: ghost, Owners: make(map[string]uint32, len(owners)),
		Lines: [2]uint32{at.lines.start, at.lines.end}, Backends: [2]uint32{at.backends.start, at.backends.end},
	}
	for id, owner := range owners {
		e.Owners[id.String()] = owner
	}
	return e
}

func (v *vip) ledgerEntry() ledgerVIP {
	e := ledgerVIP{Name: v.Name, ID: v.id, Place: v.place.id, Affinity: v.Affinity, PriorAffinity: v.priorAffinity, ServerIDs: v.serverIDs}
	for _, at := range v.visited {
		e.Visited = append(e.Visited, at.id)
	}
	if v.prior != nil {
		e.Prior = &v.prior.id
	}
	return e
}

// adopt takes over the numbers of a former daemon. What they stand for is applied
// again by the next Apply; until then packets meet what they met before.
func (p *Plane) adopt(l *ledger) error {
	p.now = flux.Tick(p.control.elements[0].Now)
	p.links = l.Links
	p.epoch++
	places := map[uint32]*place{}
	for _, e := range l.Places {
		at, err := p.adoptPlace(e)
		if err != nil {
			return fmt.Errorf("the ledger of numbers: pool %q: %w", e.Pool, err)
		}
		places[at.id] = at
		if e.Ghost {
			p.ghosts = append(p.ghosts, ghost{at, p.epoch})
		} else {
			p.applied.places[e.Pool] = at
		}
	}
	for _, e := range l.VIPs {
		v := &vip{id: e.ID, place: places[e.Place], since: p.now, moved: p.now}
		v.Name, v.Affinity, v.priorAffinity = e.Name, e.Affinity, e.PriorAffinity
		if e.Prior != nil {
			v.prior = places[*e.Prior]
		}
		v.serverIDs = e.ServerIDs
		for _, id := range e.Visited {
			if at := places[id]; at != nil {
				v.visited = append(v.visited, at)
			}
		}
		if v.place == nil || e.Prior != nil && v.prior == nil {
			return fmt.Errorf("the ledger of numbers: VIP %q is on a place that is not there", e.Name)
		}
		if err := p.numbers.vips.claim(run{e.ID, e.ID + 1}); err != nil {
			return err
		}
		p.applied.vips[e.Name], p.vipByID[e.ID] = v, v
	}
	for _, id := range l.Gone {
		if err := p.numbers.vips.claim(run{id, id + 1}); err != nil {
			return err
		}
		p.goneVIPs = append(p.goneVIPs, goneVIP{id, p.epoch})
	}
	return nil
}

func (p *Plane) adoptPlace(e ledgerPlace) (*place, error) {
	at := &place{
		pool: e.Pool, id: e.ID, slots: e.Slots,
		lines: run{e.Lines[0], e.Lines[1]}, backends: run{e.Backends[0], e.Backends[1]},
		owners: map[model.BackendID]uint32{}, left: map[model.BackendID]uint64{}, adopted: true,
	}
	for _, claim := range []func() error{
		func() error { return p.numbers.pools.claim(run{at.id, at.id + 1}) },
		func() error { return p.numbers.lines.claim(at.lines) },
		func() error { return p.numbers.backends.claim(at.backends) },
	} {
		if err := claim(); err != nil {
			return nil, err
		}
	}
	if at.slots > at.lines.length()*slotsPerLine {
		return nil, fmt.Errorf("%d slots do not fit into its lines", at.slots)
	}
	for text, owner := range e.Owners {
		id, err := model.ParseBackendID(text)
		if err != nil {
			return nil, err
		}
		at.owners[id] = owner
	}
	at.table = flux.Adopt(p.slotWords(at), p.now)
	p.occupy(at, at)
	return at, nil
}
