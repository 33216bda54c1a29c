package flux

import (
	"fmt"
	"slices"
)

// flow is a flow with everything that can be known of it.
type flow struct {
	hash uint64
	vip  *vip
	// index and identity are those of the backend that got its opener.
	index    uint32
	identity int
	last     Tick
	// period is how often it sends, at most patience apart.
	period          Tick
	silent, closing bool
	// excused says why it may go elsewhere, if it may.
	excused string
}

// The reasons for which a flow may break.
const (
	excusedDead    = "its backend died"
	excusedIdle    = "it was silent for too long"
	excusedEvicted = "its entry had to give way"
	excusedClosed  = "its entry had to give way, and it was closing"
	excusedNoRoom  = "there was no room to remember it"
)

// memory is perfect: it knows every flow, and notes which are broken.
type memory struct {
	*world
	alive  []*flow
	byKey  map[uint64]*flow
	hashes uint64
	// ended are 5-tuples that may be used again.
	ended []endedFlow
	// broken says how, one flow each. checked counts packets of flows that must
	// not break, excused flows that may, by reason.
	broken  []string
	checked int
	excused map[string]int
}

type endedFlow struct {
	hash uint64
	vip  *vip
}

const maxFlows = 64

func newMemory(w *world) *memory {
	m := &memory{world: w, byKey: map[uint64]*flow{}, excused: map[string]int{}}
	w.flows.evicted = m.noteEvicted
	w.flows.unremembered = m.noteUnremembered
	return m
}

func (m *memory) excuse(f *flow, why string) {
	if f.excused == "" {
		f.excused = why
		m.excused[why]++
	}
}

func (m *memory) noteEvicted(key uint64, e Entry, r Rank) {
	f := m.byKey[key]
	switch {
	case r == RankPrior:
		m.lossy = true
	case f == nil:
	case r == RankClosing:
		m.excuse(f, excusedClosed)
	default:
		m.excuse(f, excusedEvicted)
	}
}

func (m *memory) noteUnremembered(key uint64, e Entry) {
	m.lossy = true
	if f := m.byKey[key]; f != nil && e.Essential {
		m.excuse(f, excusedNoRoom)
	}
}

// vipOf is whose VIP a key is; those of strangers are the first one's.
func (m *memory) vipOf(key uint64) *vip { return m.vips[int(key>>40)%len(m.vips)] }

// newHash makes up a 5-tuple of a VIP.
func (m *memory) newHash(v *vip) uint64 {
	for {
		m.hashes++
		hash := mix(m.hashes * 0x9e3779b97f4a7c15)
		if m.vipOf(keyOf(hash)) == v && m.byKey[keyOf(hash)] == nil {
			return hash
		}
	}
}

// open starts a flow that sends so often.
func (m *memory) open(hash uint64, v *vip, period Tick) {
	if len(m.alive) >= maxFlows {
		return
	}
	f := &flow{hash: hash, vip: v, period: period}
	m.byKey[keyOf(hash)] = f
	if m.start(f); f.index < First {
		delete(m.byKey, keyOf(hash))
		return
	}
	m.alive = append(m.alive, f)
}

// openAgain starts a flow with the 5-tuple of one that ended.
func (m *memory) openAgain(period Tick) {
	if n := len(m.ended); n > 0 {
		last := m.ended[n-1]
		m.ended = m.ended[:n-1]
		m.open(last.hash, last.vip, period)
	}
}

// start sends a flow's opener.
func (m *memory) start(f *flow) {
	f.index = m.route(f.vip, f.hash, Packet{Opener: true})
	f.identity, f.last = m.backends[f.index].identity, m.now
}

// send sends another packet of a flow and sees where it goes.
func (m *memory) send(f *flow, closer bool) {
	if limit := f.patience(); Age(m.now, f.last) > limit {
		m.excuse(f, excusedIdle)
	}
	before := m.backends[f.index]
	index := m.route(f.vip, f.hash, Packet{Closer: closer})
	f.last = m.now
	f.closing = f.closing || closer
	if f.excused != "" {
		return
	}
	m.checked++
	if index == f.index && before.identity == f.identity {
		return
	}
	at, from := m.pools[f.vip.pool], int(f.index)/numbersPerPool
	m.broken = append(m.broken, fmt.Sprintf("at %d flow %x of slot %d went from backend %d (#%d, now #%d, pool %d) to %d, word %08x, pool %d, prior pool %d",
		m.now, f.hash, at.slot(f.hash), f.index, f.identity, before.identity, from, index, uint32(at.word(f.hash)), f.vip.pool, f.vip.prior))
	f.excused = "it broke already"
}

// patience is how long a flow may be silent.
func (f *flow) patience() Tick {
	if f.closing {
		return closingPatience
	}
	return patience
}

// end is the end of a flow. Its 5-tuple may be used again, unless it was excused:
// then the flow table may hold of it what is not so. That would take the same
// 5-tuple and a slot that moves again, both within an idle time.
func (m *memory) end(f *flow) {
	delete(m.byKey, keyOf(f.hash))
	m.alive = slices.DeleteFunc(m.alive, func(other *flow) bool { return f == other })
	if f.excused == "" && !f.silent {
		m.ended = append(m.ended, endedFlow{f.hash, f.vip})
	}
}

// pass lets time go on, and flows send when they are due.
func (m *memory) pass(ticks Tick) {
	for range ticks {
		m.now++
		for _, f := range m.alive {
			if !f.silent && Age(m.now, f.last) >= min(f.period, f.patience()) {
				m.send(f, false)
			}
		}
	}
}

// sweepOnce makes, or ends, a pass over the flow table.
func (m *memory) sweepOnce() {
	for !m.advance(1, m.vipOf) {
	}
}

// die takes a backend away without notice; its flows are lost.
func (m *memory) die(index uint32) {
	for _, f := range m.alive {
		if f.index == index {
			m.excuse(f, excusedDead)
		}
	}
	m.change(index, 0)
}

// flood sends single packets of so many strangers.
func (m *memory) flood(n int, p Packet) {
	for i := range n {
		v := m.vips[i%len(m.vips)]
		m.route(v, m.newHash(v), p)
	}
}
