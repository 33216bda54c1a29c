package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// transition is one pool of many backends, and the one that goes down and up again.
type transition struct {
	*testing.B
	plane   *Plane
	desired model.State
	state   forwarding.State
	paths   map[netip.Addr]forwarding.Path
	down    bool
}

func newTransition(b *testing.B, backends int) *transition {
	const slots = 65537
	w := &transition{
		B: b, plane: loaded(b, Limits{VIPs: 16, Pools: 16, Backends: 1 << 13, Slots: 1 << 18, Flows: 1 << 16}),
		paths: map[netip.Addr]forwarding.Path{},
	}
	pool := model.Pool{Name: "a", TableSize: slots, OnAllDown: model.OnAllDownDrop}
	for n := range backends {
		a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		pool.Backends = append(pool.Backends, model.Backend{BackendID: model.BackendID{Address: a}, Weight: 1, State: model.Enabled})
		w.paths[a] = forwarding.Path{Link: loopback, OnLink: true, MTU: mtu, Source: balancerMAC(), Destination: clientMAC()}
	}
	w.desired = model.State{
		VIPs: []model.VIP{{
			Name: "web", Endpoints: listen(netip.MustParseAddr("192.0.2.1"), 80), Protocol: model.TCP, Mode: model.ModeDSRL2,
			Pool: "a", Tracking: model.TrackingFlux, IdleTimeout: 10 * time.Second,
		}},
		Pools: []model.Pool{pool},
	}
	w.desired.Sort()
	w.apply()
	return w
}

// apply takes the way of a health transition to the last slot.
func (w *transition) apply() {
	first := w.desired.Pools[0].Backends[0].BackendID
	state, err := forwarding.Build(w.desired, func(_ *model.Pool, id model.BackendID) (model.Health, time.Time) {
		if w.down && id == first {
			return model.HealthDown, time.Time{}
		}
		return model.HealthUp, time.Time{}
	}, forwarding.Nobody, time.Now(), w.state)
	if err != nil {
		w.Fatal(err)
	}
	state.Paths = w.paths
	if err := w.plane.Apply(state); err != nil {
		w.Fatal(err)
	}
	w.state = state
}

func (w *transition) words() []flux.Word { return w.plane.applied.places["a"].table.Words() }

// BenchmarkTransition is the time from a backend's going down, or up again, to the
// last slot written.
func BenchmarkTransition(b *testing.B) {
	for _, backends := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(backends), func(b *testing.B) {
			w := newTransition(b, backends)
			before, changed := make([]flux.Word, len(w.words())), 0
			for b.Loop() {
				b.StopTimer()
				copy(before, w.words())
				b.StartTimer()
				w.down = !w.down
				w.apply()
				b.StopTimer()
				for i, word := range w.words() {
					if word.Owner() != before[i].Owner() {
						changed++
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(changed)/float64(b.N), "slots/op")
		})
	}
}

// BenchmarkSweep is a pass over 16 million entries, in steps as the daemon makes them.
func BenchmarkSweep(b *testing.B) {
	const entries, step = 1 << 24, 1 << 14
	for _, perBucket := range []int{0, 3} {
		b.Run(fmt.Sprintf("full=%d%%", 100*perBucket/flowsPerBucket), func(b *testing.B) {
			w := newTransition(b, 100)
			w.plane = loaded(b, Limits{VIPs: 16, Pools: 16, Backends: 1 << 13, Slots: 1 << 18, Flows: entries})
			w.apply()
			at, vip := w.plane.applied.places["a"], w.plane.applied.vips["web"].id
			for i := range w.plane.flows.elements {
				for j := range perBucket {
					key := uint64(i*flowsPerBucket+j) * hashMultiplier0
					owner := at.base() + at.table.Words()[Slot(key, at.slots)].Owner()
					w.plane.flows.elements[i].Flow[j] = sealed(key, encodeState(flux.Entry{Backend: owner, Essential: true, Confirmed: true}, vip))
				}
			}
			for b.Loop() {
				for done := false; !done; {
					var err error
					if done, err = w.plane.Sweep(step); err != nil {
						b.Fatal(err)
					}
				}
			}
			if want := uint64(len(w.plane.flows.elements) * perBucket); w.plane.stats.Live != want {
				b.Fatalf("%d live flows, want %d", w.plane.stats.Live, want)
			}
			b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(w.plane.bytesOf(b, w.plane.maps.Flows))/entries, "B/entry")
		})
	}
}

// bytesOf is the memory that a map takes.
func (p *Plane) bytesOf(t testing.TB, m *ebpf.Map) uint64 {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	bytes, ok := info.Memlock()
	if !ok {
		t.Fatalf("the kernel does not tell what %s takes", m)
	}
	return bytes
}
