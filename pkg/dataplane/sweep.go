package dataplane

import (
	"sync/atomic"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// TickLength is the length of a tick of the flow table's clock.
const TickLength = 250 * time.Millisecond

// closingIdle is how long a flow that has seen a FIN or RST may be silent: only
// the client's half is seen, and the other may go on.
const closingIdle = flux.Tick(time.Minute/TickLength) + flux.RefreshAge

// ticks rounds a duration up to ticks.
func ticks(d time.Duration) flux.Tick {
	return flux.Tick((d + TickLength - 1) / TickLength)
}

// idleTicks is the age of an entry up to which its flow is alive: time stamps lag
// behind by what is not worth writing.
func idleTicks(timeout time.Duration) flux.Tick { return ticks(timeout) + flux.RefreshAge }

// sweep is one pass over the flow table, made in steps.
type sweep struct {
	began flux.Tick
	// epoch is that of the state that packets met when it began.
	epoch uint64
	// bucket of the flow table, then translation, that comes next.
	bucket, translation int
	// natNow is the translations' time when it began.
	natNow       flux.Tick
	translations uint32
	// Live flows by index of backend and of VIP.
	backends, vips map[uint32]uint32
	live           uint32
	// Of backends with a limit: what was taken when it began, and connections found.
	taken, counted map[*roomed]uint64
	// strays are VIPs with live flows on a pool that is not theirs any more, or
	// where another affinity led them.
	strays map[uint32]bool
	// held are slots, by place, with live flows on a backend that does not own them.
	held map[*place]map[uint32]bool
	took time.Duration
}

// SweepStats describe the last whole pass over the flow table.
type SweepStats struct {
	// Sweeps is how many there have been.
	Sweeps uint64
	// Entries looked at, and the processor time that took.
	Entries uint64
	Took    time.Duration
	// Live flows, and connections of fullnat.
	Live, Translations uint64
}

// SetClock moves the flow table's clock. It must be told at least every tick, and
// may only go forward, by [TickLength] a tick.
func (p *Plane) SetClock(now flux.Tick) {
	p.now = now
	atomic.StoreUint32(&p.control.elements[0].Now, uint32(now))
}

// Clock is the flow table's time: that of a former daemon goes on.
func (p *Plane) Clock() flux.Tick { return p.now }

// NeedsSweep reports whether there is anything that a pass over the flow table
// could find out.
func (p *Plane) NeedsSweep() bool {
	if p.sweeping != nil || len(p.roomed) > 0 || len(p.ghosts) > 0 || p.SlotsInFlux() > 0 {
		return true
	}
	for _, v := range p.applied.vips {
		if v.prior != nil || v.tracks || v.Mode == model.ModeFullNAT {
			return true
		}
	}
	return p.stats.Live > 0 || p.leaving() > 0
}

// SlotsInFlux counts the slots in flux.
func (p *Plane) SlotsInFlux() int {
	n := 0
	for _, at := range p.applied.places {
		n += at.table.InFlux()
	}
	return n
}

// Sweep looks at up to that many entries of the flow table, then of translations, and
// reports whether a pass has ended. At the end of one, what may settle settles, and
// numbers that nothing names any more are free.
func (p *Plane) Sweep(entries int) (done bool, err error) {
	if p.sweeping == nil {
		if p.sweeping, err = newSweep(p.now, p.epoch); err != nil {
			return false, err
		}
		if err := p.beginCount(p.sweeping); err != nil {
			p.sweeping = nil
			return false, err
		}
	}
	s := p.sweeping
	start := time.Now()
	for entries > 0 && !p.over(s) {
		entries -= p.sweepOn(s, entries)
	}
	s.took += time.Since(start)
	if !p.over(s) {
		return false, nil
	}
	p.sweeping = nil
	return true, p.conclude(s)
}

// over reports whether a pass has looked at everything.
func (p *Plane) over(s *sweep) bool {
	return s.bucket == len(p.flows.elements) && s.translation == len(p.translations.elements)
}

// sweepOn goes on with a pass, and returns at how many entries it has looked, about as
// many as it may.
func (p *Plane) sweepOn(s *sweep, entries int) int {
	if s.bucket == len(p.flows.elements) {
		last := min(s.translation+entries, len(p.translations.elements))
		n := last - s.translation
		for ; s.translation < last; s.translation++ {
			p.visitTranslation(s, uint32(s.translation))
		}
		return n
	}
	buckets := p.flows.elements[s.bucket:]
	buckets = buckets[:min(len(buckets), (entries+flowsPerBucket-1)/flowsPerBucket)]
	for i := range buckets {
		for j := range buckets[i].Flow {
			p.visit(s, &buckets[i].Flow[j])
		}
	}
	s.bucket += len(buckets)
	return len(buckets) * flowsPerBucket
}

func newSweep(now flux.Tick, epoch uint64) (*sweep, error) {
	natNow, err := natNow()
	return &sweep{
		natNow:   natNow,
		epoch:    epoch,
		began:    now,
		backends: map[uint32]uint32{},
		vips:     map[uint32]uint32{},
		strays:   map[uint32]bool{},
		held:     map[*place]map[uint32]bool{},
	}, err
}

// visit expires an entry or notes what it says.
func (p *Plane) visit(s *sweep, e *lbFlow) {
	key, state, ok := loadFlow(e)
	if !ok {
		return
	}
	f := decodeFlow(key, state)
	vip, at := p.vipByID[f.vip], p.placeOf(f.Backend)
	if vip == nil || at == nil || flux.Age(p.now, f.Seen) > vip.idleOf(f.Entry) {
		dropFlow(e, key, state)
		return
	}
	s.live++
	s.backends[f.Backend]++
	p.countFlow(s, f.Entry)
	s.vips[f.vip]++
	if at != vip.place {
		s.strays[f.vip] = true
	}
	slot := Slot(f.hash, at.slots)
	if at.table.Words()[slot].Owner() == f.Backend-at.base() {
		return
	}
	if vip.changesAffinity() {
		s.strays[f.vip] = true
	}
	if s.held[at] == nil {
		s.held[at] = map[uint32]bool{}
	}
	s.held[at][slot] = true
}

// placeOf is the place whose backend has an index, nil if none has.
func (p *Plane) placeOf(backend uint32) *place {
	if int(backend) >= len(p.placeByBackend) {
		return nil
	}
	return p.placeByBackend[backend]
}

// conclude settles what a whole pass showed may settle, and takes back numbers.
func (p *Plane) conclude(s *sweep) error {
	p.stats = SweepStats{Sweeps: p.stats.Sweeps + 1, Entries: uint64(len(p.flows.elements) * flowsPerBucket), Took: s.took, Live: uint64(s.live), Translations: uint64(s.translations)}
	p.liveBackends, p.liveVIPs = s.backends, s.vips
	p.endCount(s)
	if err := p.noteLosses(); err != nil {
		return err
	}
	idle := p.idleTimes()
	for _, at := range p.allPlaces() {
		held := s.held[at]
		at.table.Settle(s.began, p.now, idle[at], func(slot uint32) bool { return held[slot] })
	}
	settled, err := p.settleVIPs(s)
	if err != nil {
		return err
	}
	reclaimed, err := p.reclaim(s)
	if err != nil || !settled && !reclaimed {
		return err
	}
	return p.record(nil)
}

// noteLosses tells every slot if the flow table gave up entries of live flows.
func (p *Plane) noteLosses() error {
	events, err := p.FlowEvents()
	if err != nil {
		return err
	}
	if events.EvictedPrior != p.events.EvictedPrior || events.Unremembered != p.events.Unremembered {
		p.noteLoss()
	}
	p.events = events
	return nil
}

// noteLoss makes every slot and VIP in flux wait a whole idle time again.
func (p *Plane) noteLoss() {
	p.lost, p.lossy = p.now, true
	for _, at := range p.allPlaces() {
		at.table.Lost(p.now)
	}
}

// settleVIPs ends the flux of VIPs whose flows have all left their prior pool.
func (p *Plane) settleVIPs(s *sweep) (bool, error) {
	settled := false
	// A flow may have shown itself in a bucket after the sweep had passed it.
	sweep := flux.Age(p.now, s.began)
	for _, v := range p.applied.vips {
		if v.prior == nil || s.strays[v.id] || flux.Age(p.now, v.since) <= sweep+v.idle ||
			flux.Age(p.now, v.moved) <= sweep || p.lossy && flux.Age(p.now, p.lost) <= sweep+v.idle {
			continue
		}
		v.prior, v.visited = nil, nil
		settled = true
	}
	if !settled {
		return false, nil
	}
	if err := p.rewriteVIPs(); err != nil {
		return false, err
	}
	return true, p.dropServerIDs()
}

// idleTimes are, by place, the longest idle time of the VIPs whose flows may be there,
// and of which slots know more than translations.
func (p *Plane) idleTimes() map[*place]flux.Tick {
	idle := make(map[*place]flux.Tick, len(p.applied.places))
	for _, v := range p.applied.vips {
		if v.Mode != model.ModeFullNAT {
			idle[v.place] = max(idle[v.place], v.idle)
			idle[v.prior] = max(idle[v.prior], v.idle)
		}
	}
	return idle
}
