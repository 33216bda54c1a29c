package dataplane

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// world is a desired forwarding state that tests change, and the Plane that has it.
type world struct {
	*testing.T
	*Plane
	pools map[string]forwarding.Pool
	vips  map[string]model.VIP
	paths map[netip.Addr]forwarding.Path
}

func newWorld(t *testing.T, limits Limits) *world {
	return &world{
		T: t, Plane: loaded(t, limits),
		pools: map[string]forwarding.Pool{}, vips: map[string]model.VIP{}, paths: map[netip.Addr]forwarding.Path{},
	}
}

// pool sets a pool to so many backends from a number on, and paths to them.
func (w *world) pool(name string, slots uint32, backends ...model.BackendID) {
	addresses := make([]netip.Addr, len(backends))
	for i, id := range backends {
		addresses[i] = id.Address
		b := id.Address.As4()
		w.paths[id.Address] = forwarding.Path{
			Link: loopback, OnLink: true, MTU: mtu, Source: balancerMAC(), Destination: mac{2, 0, b[0], b[1], b[2], b[3]},
		}
	}
	w.pools[name] = settledPool(name, slots, addresses...)
}

// vip sets a VIP, known by its port.
func (w *world) vip(port uint16, pool string) {
	name := vipName(port)
	w.vips[name] = model.VIP{Name: name, Endpoints: listen(ipv4().vip, port), Protocol: model.UDP, Mode: model.ModeDSRL2, Pool: pool}
}

func vipName(port uint16) string { return fmt.Sprintf("vip%d", port) }

func (w *world) state() forwarding.State {
	state := forwarding.State{Paths: maps.Clone(w.paths)}
	for _, v := range w.vips {
		state.VIPs = append(state.VIPs, v)
	}
	for _, p := range w.pools {
		state.Pools = append(state.Pools, p)
	}
	slices.SortFunc(state.VIPs, func(a, b model.VIP) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(state.Pools, func(a, b forwarding.Pool) int { return strings.Compare(a.Name, b.Name) })
	return state
}

func (w *world) apply() {
	w.Helper()
	applyTo(w.T, w.Plane, w.state())
	w.rest()
	w.settled()
}

// rest lets the idle time go by, which is none, so that everything settles and
// numbers that nothing names are free.
func (w *world) rest() {
	w.Helper()
	w.SetClock(w.Clock() + flux.RefreshAge + 1)
	if done, err := w.Sweep(1 << 20); !done || err != nil {
		w.Fatal(done, err)
	}
}

// settled wants every slot of every pool to have the owner that its table says,
// the same as prior, and no flag.
func (w *world) settled() {
	w.Helper()
	for name, pool := range w.Plane.applied.pools {
		var owners []uint32
		if pool.Table != nil {
			owners = pool.Table.Owners()
		}
		at := w.applied.places[name]
		words := w.slotWords(at)
		if len(words) != int(pool.Slots) {
			w.Fatalf("pool %s has %d slots, want %d", name, len(words), pool.Slots)
		}
		for i, word := range words {
			want := uint32(lbOwnerOWNER_NONE)
			switch {
			case owners != nil:
				want = at.owners[pool.Members[owners[i]].ID]
			case pool.Reset:
				want = uint32(lbOwnerOWNER_RESET)
			}
			if uint32(word) != want<<16|want {
				w.Fatalf("pool %s, slot %d is %#x, want owner and prior %d and no more", name, i, word, want)
			}
		}
	}
}

// packets sends n flows to a port and counts them by the backend that gets them;
// those that nobody gets count for the zero address.
func (w *world) packets(port uint16, n int) map[netip.Addr]int {
	w.Helper()
	got := map[netip.Addr]int{}
	for i := range n {
		in := ipv4().packet(udp{from: uint16(1000 + i), to: port})
		verdict, out, err := send(w.Plane, in.bytes())
		if err != nil {
			w.Fatal(err)
		}
		var to netip.Addr
		if verdict == xdpTX {
			to = netip.AddrFrom4([4]byte(out[2:6]))
		}
		got[to]++
	}
	return got
}

// spread wants n flows to a port to reach exactly these backends.
func (w *world) spread(port uint16, n int, backends ...model.BackendID) {
	w.Helper()
	got := w.packets(port, n)
	for _, id := range backends {
		if got[id.Address] == 0 {
			w.Errorf("port %d: none of %d flows reaches %s", port, n, id)
		}
		delete(got, id.Address)
	}
	for to, flows := range got {
		w.Errorf("port %d: %d of %d flows reach %v", port, flows, n, to)
	}
}

func (w *world) nobody(port uint16) {
	w.Helper()
	if got := w.packets(port, 10); got[netip.Addr{}] != 10 {
		w.Errorf("port %d reaches %v, want nobody", port, got)
	}
}

func (w *world) counters() Counters {
	w.Helper()
	c, err := w.Counters()
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// counted wants so many packets of a VIP.
func (w *world) counted(port uint16, want uint64) {
	w.Helper()
	got, known := w.counters().VIPs[vipName(port)]
	if !known || got.Packets != want {
		w.Errorf("VIP %s counts %d packets (known: %v), want %d", vipName(port), got.Packets, known, want)
	}
}

// backendCounts are the packets of a pool's backends.
func (w *world) backendCounts(pool string) map[model.BackendID]uint64 {
	counts := map[model.BackendID]uint64{}
	for key, c := range w.counters().Backends {
		if key.Pool == pool {
			counts[key.ID] = c.Packets
		}
	}
	return counts
}

// total wants a pool's backends to count so many packets together.
func (w *world) total(pool string, want uint64) {
	w.Helper()
	sum := uint64(0)
	for _, n := range w.backendCounts(pool) {
		sum += n
	}
	if sum != want {
		w.Errorf("backends of pool %s count %d packets, want %d", pool, sum, want)
	}
}

func TestApplyKeepsCountersOfWhatStays(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 3)...)
	w.pool("b", 251, backendsOf(100, 2)...)
	w.vip(1, "a")
	w.vip(2, "b")
	w.apply()
	w.spread(1, 50, backendsOf(0, 3)...)
	w.spread(2, 30, backendsOf(100, 2)...)

	w.pool("c", 509, backendsOf(200, 4)...)
	w.vip(3, "c")
	w.vip(4, "a")
	w.apply()
	w.counted(1, 50)
	w.counted(2, 30)
	w.counted(3, 0)
	w.counted(4, 0)
	w.total("a", 50)
	w.total("c", 0)
	w.spread(3, 40, backendsOf(200, 4)...)
	w.spread(4, 20, backendsOf(0, 3)...)
	w.total("a", 70)

	delete(w.vips, vipName(2))
	delete(w.pools, "b")
	w.apply()
	w.counted(1, 50)
	w.counted(3, 40)
	w.total("a", 70)
	w.total("c", 40)
	w.nobody(2)
	if _, known := w.counters().VIPs[vipName(2)]; known {
		t.Error("the removed VIP has counters")
	}
}

// TestApplyStartsAtZero: whoever gets a number that another had starts at zero.
func TestApplyStartsAtZero(t *testing.T) {
	w := newWorld(t, Limits{VIPs: 2, Pools: 2, Backends: 16, Slots: 512})
	w.pool("a", 251, backendsOf(0, 8)...)
	w.vip(1, "a")
	w.apply()
	w.spread(1, 200, backendsOf(0, 8)...)
	vip, place := w.applied.vips[vipName(1)].id, w.applied.places["a"]
	for round := range 3 {
		delete(w.vips, vipName(uint16(1+round)))
		delete(w.pools, "a")
		w.apply()
		w.nobody(uint16(1 + round))
		w.pool("a", 251, backendsOf(50*round, 8)...)
		w.vip(uint16(2+round), "a")
		w.apply()
		if w.applied.vips[vipName(uint16(2+round))].id != vip || w.applied.places["a"].backends != place.backends {
			t.Fatal("the numbers were not used again, the test tests nothing")
		}
		w.counted(uint16(2+round), 0)
		w.total("a", 0)
		w.spread(uint16(2+round), 200, backendsOf(50*round, 8)...)
		w.total("a", 200)
	}
}

// TestApplyStartsBackendsAtZero is the same within a pool.
func TestApplyStartsBackendsAtZero(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 4)...)
	w.vip(1, "a")
	w.apply()
	w.spread(1, 100, backendsOf(0, 4)...)
	kept := w.backendCounts("a")
	number := w.applied.places["a"].owners[backendsOf(3, 1)[0]]

	w.pool("a", 251, backendsOf(0, 3)...)
	w.apply()
	w.pool("a", 251, append(backendsOf(0, 3), backendsOf(77, 1)...)...)
	w.apply()
	if w.applied.places["a"].owners[backendsOf(77, 1)[0]] != number {
		t.Fatal("the number was not used again, the test tests nothing")
	}
	counts := w.backendCounts("a")
	for _, id := range backendsOf(0, 3) {
		if counts[id] != kept[id] {
			t.Errorf("%s stays and counts %d, want %d", id, counts[id], kept[id])
		}
	}
	if n := counts[backendsOf(77, 1)[0]]; n != 0 {
		t.Errorf("the new backend starts at %d", n)
	}
	w.counted(1, 100)
	// One that is back is new, too.
	w.pool("a", 251, backendsOf(0, 4)...)
	w.apply()
	if n := w.backendCounts("a")[backendsOf(3, 1)[0]]; n != 0 {
		t.Errorf("the backend that is back starts at %d", n)
	}
}

// TestNumberIsFreeAfterRetireOnly: one Apply that removes a backend and adds
// another gives the new one a number of its own.
func TestNumberIsFreeAfterRetireOnly(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 2)...)
	w.vip(1, "a")
	w.apply()
	old := w.applied.places["a"].owners[backendsOf(1, 1)[0]]
	w.pool("a", 251, append(backendsOf(0, 1), backendsOf(9, 1)...)...)
	w.apply()
	if w.applied.places["a"].owners[backendsOf(9, 1)[0]] == old {
		t.Error("the new backend has the number of the one that left in the same change")
	}
	if len(w.applied.places["a"].owners) != 2 {
		t.Errorf("numbers in use: %v, want 2", w.applied.places["a"].owners)
	}
	// The VIP's number is not used in the change that frees it either.
	id := w.applied.vips[vipName(1)].id
	delete(w.vips, vipName(1))
	w.vip(2, "a")
	w.apply()
	if w.applied.vips[vipName(2)].id == id {
		t.Error("the new VIP has the number of the one that left in the same change")
	}
	w.spread(2, 20, append(backendsOf(0, 1), backendsOf(9, 1)...)...)
}

// TestApplyMovesPool: a pool that outgrows its place, or changes its table size,
// moves with its counters, and gives the old place back.
func TestApplyMovesPool(t *testing.T) {
	for name, change := range map[string]func(*world) []model.BackendID{
		"growth": func(w *world) []model.BackendID {
			w.pool("a", 251, backendsOf(0, 9)...)
			return backendsOf(0, 9)
		},
		"table size": func(w *world) []model.BackendID {
			w.pool("a", 1021, backendsOf(0, 8)...)
			return backendsOf(0, 8)
		},
		"smaller table": func(w *world) []model.BackendID {
			w.pool("a", 127, backendsOf(0, 8)...)
			return backendsOf(0, 8)
		},
		"most replaced": func(w *world) []model.BackendID {
			backends := append(backendsOf(0, 2), backendsOf(60, 6)...)
			w.pool("a", 251, backends...)
			return backends
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, smallLimits())
			w.pool("a", 251, backendsOf(0, 8)...)
			w.pool("b", 251, backendsOf(100, 2)...)
			w.vip(1, "a")
			w.vip(2, "b")
			w.apply()
			w.spread(1, 200, backendsOf(0, 8)...)
			w.spread(2, 20, backendsOf(100, 2)...)
			before, place := w.backendCounts("a"), w.applied.places["a"]
			used := w.numbers.backends.used

			backends := change(w)
			w.apply()
			if w.applied.places["a"].id == place.id {
				t.Fatal("the pool has not moved, the test tests nothing")
			}
			now := w.backendCounts("a")
			if len(now) != len(backends) {
				t.Errorf("%d backends count, want %d", len(now), len(backends))
			}
			for _, id := range backends {
				if now[id] != before[id] {
					t.Errorf("%s counts %d, want %d", id, now[id], before[id])
				}
			}
			w.counted(1, 200)
			w.total("b", 20)
			w.spread(1, 300, backends...)
			w.spread(2, 20, backendsOf(100, 2)...)

			w.pool("a", 251, backendsOf(0, 8)...)
			w.apply()
			delete(w.pools, "a")
			delete(w.vips, vipName(1))
			w.apply()
			if want := used - minPlace; w.numbers.backends.used != want {
				t.Errorf("%d backends in use, want %d: a place was not given back", w.numbers.backends.used, want)
			}
		})
	}
}
