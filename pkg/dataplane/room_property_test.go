package dataplane

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// counting is how many entries of the flow table count, as a sweep would find them now.
func (r *fluxRig) counting() int {
	s := sweep{counted: map[*roomed]uint64{}}
	for i := range r.plane.flows.elements {
		for j := range r.plane.flows.elements[i].Flow {
			if key, state, ok := loadFlow(&r.plane.flows.elements[i].Flow[j]); ok {
				r.plane.countFlow(&s, decodeFlow(key, state).Entry)
			}
		}
	}
	n := 0
	for _, found := range s.counted {
		n += int(found)
	}
	return n
}

// roomStep does something that may happen at any time: a connection begins, half or whole,
// goes on or ends, time passes, a sweep goes on by a part of the table.
func (r *fluxRig) roomStep(random *rand.Rand, opened map[uint32]bool) {
	f := uint32(random.IntN(300))
	switch kind := random.IntN(20); {
	case kind < 10:
		if r.send(f, syn) >= 0 {
			opened[f] = random.IntN(4) > 0
			if opened[f] {
				r.send(f, ack)
			}
		}
	case kind < 12 && opened[f]:
		r.send(f, fin)
		opened[f] = false
	case kind < 14 && opened[f]:
		r.send(f, ack)
	case kind < 15:
		r.now += flux.Tick(random.IntN(8))
		r.plane.SetClock(r.now)
	default:
		if _, err := r.plane.Sweep(random.IntN(len(r.plane.flows.elements) * flowsPerBucket)); err != nil {
			r.Fatal(err)
		}
	}
}

// mostOfSteps is the highest count after any of many steps, after meddling before each.
func mostOfSteps(t *testing.T, seed uint64, limit uint32, meddle func(*Plane)) int {
	r := newFluxRig(t, model.TrackingAlways, model.TCP)
	r.plane = loaded(t, Limits{VIPs: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 1 << 11})
	r.plane.SetClock(r.now)
	r.desired.VIPs[0].IdleTimeout = 15 * time.Minute
	r.add(0, 1)
	r.limit(1, limit)
	random, opened, most := rand.New(rand.NewPCG(seed, 1)), map[uint32]bool{}, 0
	for range 2000 {
		meddle(r.plane)
		r.roomStep(random, opened)
		most = max(most, r.counting())
	}
	// In the end all that ends makes room for as many.
	for f := range opened {
		r.send(f, fin)
	}
	r.pass(11 * time.Second)
	r.pass(time.Second)
	if n := r.admitted(10_000, limit+1); n < int(limit) {
		t.Errorf("seed %d: %d of %d get in when all has ended", seed, n, limit+1)
	}
	return most
}

// TestLimitHoldsAtAllTimes: whatever happens in whatever order, a backend is full and never
// has more than it may have. The control: with a ceiling out of reach it has.
func TestLimitHoldsAtAllTimes(t *testing.T) {
	t.Parallel()
	const limit = 40
	for seed := range uint64(3) {
		if most := mostOfSteps(t, seed, limit, func(*Plane) {}); most != limit {
			t.Errorf("seed %d: a backend has up to %d connections, want %d", seed, most, limit)
		}
	}
	if most := mostOfSteps(t, 0, limit, func(p *Plane) {
		for i := range p.rooms.elements {
			p.rooms.elements[i].Ceiling = math.MaxUint64
		}
	}); most <= limit {
		t.Errorf("without a ceiling a backend has at most %d connections: the test shows nothing", most)
	}
}
