package dataplane

import (
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// TestApplyWithoutRoom: a state that does not fit is an error, and packets meet
// the one before, whatever of the new one would have fitted.
func TestApplyWithoutRoom(t *testing.T) {
	limits := Limits{VIPs: 3, Pools: 2, Backends: 32, Slots: 1024}
	for name, exceed := range map[string]func(*world){
		"vips": func(w *world) {
			for port := range uint16(3) {
				w.vip(10+port, "a")
			}
		},
		"pools": func(w *world) {
			w.pool("b", 127, backendsOf(50, 1)...)
			w.pool("c", 127, backendsOf(60, 1)...)
		},
		"slots":    func(w *world) { w.pool("b", 1021, backendsOf(50, 1)...) },
		"backends": func(w *world) { w.pool("b", 127, backendsOf(50, 25)...) },
		"growth":   func(w *world) { w.pool("a", 251, backendsOf(0, 33)...) },
		"table size of a pool that must not share its place": func(w *world) { w.pool("a", 1021, backendsOf(0, 3)...) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, limits)
			w.pool("a", 251, backendsOf(0, 2)...)
			w.vip(1, "a")
			w.apply()
			good := w.state()
			numbers := w.numbers.clone()
			w.vip(2, "a")
			w.pool("a", 251, backendsOf(0, 3)...)
			exceed(w)
			if err := w.Check(w.state()); err == nil {
				t.Error("Check finds room")
			}
			if err := w.Apply(w.state()); err == nil {
				t.Fatal("Apply finds room")
			} else {
				t.Log(err)
			}
			w.settled()
			w.spread(1, 50, backendsOf(0, 2)...)
			w.nobody(2)
			w.counted(1, 50)
			for i, now := range []*ranges{w.numbers.vips, w.numbers.pools, w.numbers.lines, w.numbers.backends} {
				was := []*ranges{numbers.vips, numbers.pools, numbers.lines, numbers.backends}[i]
				if now.used != was.used || !slices.Equal(now.free, was.free) {
					t.Errorf("%s: %d in use, %d before", now.what, now.used, was.used)
				}
			}
			applyTo(t, w.Plane, good)
			w.spread(1, 50, backendsOf(0, 2)...)
			w.counted(1, 100)
		})
	}
}

// TestCheckChangesNothing: what Check finds room for is not there until Apply.
func TestCheckChangesNothing(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 2)...)
	w.vip(1, "a")
	if err := w.Check(w.state()); err != nil {
		t.Fatal(err)
	}
	w.nobody(1)
	if w.numbers.vips.used+w.numbers.pools.used+w.numbers.lines.used+w.numbers.backends.used != 0 {
		t.Error("Check took numbers")
	}
	w.apply()
	w.spread(1, 20, backendsOf(0, 2)...)
}

// TestApplyPaths: a backend without a path is unresolved until it has one, and
// again when it loses it.
func TestApplyPaths(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 1)...)
	w.vip(1, "a")
	path := w.paths[backendsOf(0, 1)[0].Address]
	for range 2 {
		delete(w.paths, backendsOf(0, 1)[0].Address)
		w.apply()
		w.nobody(1)
		w.paths[backendsOf(0, 1)[0].Address] = path
		w.apply()
		w.spread(1, 10, backendsOf(0, 1)...)
	}
	w.counted(1, 40)
	w.total("a", 20)
	moved := path
	moved.Destination = mac{2, 0, 99, 99, 99, 99}
	w.paths[backendsOf(0, 1)[0].Address] = moved
	w.apply()
	if got := w.packets(1, 5); got[netip.AddrFrom4([4]byte{99, 99, 99, 99})] != 5 {
		t.Errorf("after its MAC address changed, packets go to %v", got)
	}
}

// TestApplyMembers: backends that take no new flows have a number and no slot.
func TestApplyMembers(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 4)...)
	w.vip(1, "a")
	w.apply()
	w.spread(1, 80, backendsOf(0, 4)...)
	drained := settledPool("a", 251, backendsOf(1, 1)[0].Address, backendsOf(3, 1)[0].Address)
	drained.Backends = keeping(backendsOf(0, 4))
	w.pools["a"] = drained
	w.apply()
	w.spread(1, 80, backendsOf(1, 1)[0], backendsOf(3, 1)[0])
	if n := len(w.backendCounts("a")); n != 4 {
		t.Errorf("%d backends count, want 4", n)
	}
	w.total("a", 160)
	down := poolOf("a", 251, backendsOf(0, 4)...)
	w.pools["a"] = down
	w.apply()
	w.nobody(1)
	down.Reset = true
	w.pools["a"] = down
	w.apply()
	w.nobody(1)
	w.pool("a", 251, backendsOf(0, 4)...)
	w.apply()
	w.spread(1, 80, backendsOf(0, 4)...)
}

// TestApplyMovesVIP: a VIP that changes its pool or mode keeps its counters.
func TestApplyMovesVIP(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 2)...)
	w.pool("b", 251, backendsOf(10, 2)...)
	w.vip(1, "a")
	w.apply()
	w.spread(1, 20, backendsOf(0, 2)...)
	w.vip(1, "b")
	w.apply()
	w.spread(1, 20, backendsOf(10, 2)...)
	w.counted(1, 40)
	v := w.vips[vipName(1)]
	v.Endpoints = listen(ipv4().vip, 77)
	w.vips[vipName(1)] = v
	w.apply()
	w.nobody(1)
	w.spread(77, 20, backendsOf(10, 2)...)
	w.counted(1, 60)
}

// TestSameTableIsNotWritten: a table with the address of the one before is taken
// to be the same; any other is written.
func TestSameTableIsNotWritten(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 2)...)
	w.vip(1, "a")
	w.apply()
	const spoilt = 12345
	word := &w.slotWords(w.applied.places["a"])[7]
	atomic.StoreUint32((*uint32)(word), spoilt)
	applyTo(t, w.Plane, w.state())
	if *word != spoilt {
		t.Error("a table that is the same was written")
	}
	pool := w.pools["a"]
	pool.Table = inTurn(pool.Slots, 2)
	w.pools["a"] = pool
	w.apply()
	if *word == spoilt {
		t.Error("a table that is another was not written")
	}
}

func TestOwned(t *testing.T) {
	table := inTurn(3, 2)
	for name, c := range map[string]struct {
		a, b forwarding.Pool
		want bool
	}{
		"one table":         {forwarding.Pool{Table: table}, forwarding.Pool{Table: table}, true},
		"equal tables":      {forwarding.Pool{Table: table}, forwarding.Pool{Table: inTurn(3, 2)}, false},
		"none and some":     {forwarding.Pool{}, forwarding.Pool{Table: table}, false},
		"some and none":     {forwarding.Pool{Table: table}, forwarding.Pool{}, false},
		"both down":         {forwarding.Pool{}, forwarding.Pool{}, true},
		"both reset":        {forwarding.Pool{Reset: true}, forwarding.Pool{Reset: true}, true},
		"drop and reset":    {forwarding.Pool{}, forwarding.Pool{Reset: true}, false},
		"up, reset or not":  {forwarding.Pool{Table: table}, forwarding.Pool{Table: table, Reset: true}, true},
		"reset, and now up": {forwarding.Pool{Reset: true}, forwarding.Pool{Table: table, Reset: true}, false},
	} {
		w := written{slots: true, table: c.a.Table, reset: c.a.Reset}
		if got := w.owned(&c.b); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if (&written{}).owned(&c.b) {
			t.Errorf("%s: where nothing is written, it is the same", name)
		}
	}
}

// TestMovedPoolIsWritten: a pool that needs more room for backends that take no
// flows has the same table, at another place.
func TestMovedPoolIsWritten(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 3)...)
	w.vip(1, "a")
	w.apply()
	place := w.applied.places["a"]
	pool := w.pools["a"]
	pool.Backends = keeping(backendsOf(0, 20))
	w.pools["a"] = pool
	w.apply()
	if w.applied.places["a"].id == place.id {
		t.Fatal("the pool has not moved, the test tests nothing")
	}
	w.spread(1, 60, backendsOf(0, 3)...)
}

// TestVIPTablesTakeTurns: the table that packets use is never written to.
func TestVIPTablesTakeTurns(t *testing.T) {
	w := newWorld(t, smallLimits())
	w.pool("a", 251, backendsOf(0, 2)...)
	current := func() ([]lbVipEntry, uint32) {
		c := &w.control.elements[0]
		table := c.VipTable[c.CurrentVipTable]
		return w.entries(table), c.CurrentVipTable
	}
	w.vip(1, "a")
	w.apply()
	for port := range uint16(6) {
		used, which := current()
		before := slices.Clone(used)
		if port%3 == 1 {
			// A change of anything else leaves the table in use.
			w.pool("a", 251, backendsOf(0, int(port)+1)...)
			w.apply()
			if _, now := current(); now != which {
				t.Errorf("round %d: another table is in use, and no VIP changed", port)
			}
		}
		w.vip(10+port, "a")
		w.apply()
		if _, now := current(); now == which {
			t.Errorf("round %d: the same table is in use, and VIPs changed", port)
		}
		if !slices.Equal(used, before) {
			t.Errorf("round %d: the table in use was written to", port)
		}
		w.counted(1, 0)
	}
}

// entries are those of a VIP table.
func (w *world) entries(table lbVipTable) []lbVipEntry {
	return w.Plane.vips.elements[table.Base:][:table.Mask+1]
}

// TestApplyUnderTraffic changes everything about a VIP's pool, and has others come
// and go with its old numbers, while packets are on their way: each must reach a
// backend of the VIP's own pool.
func TestApplyUnderTraffic(t *testing.T) {
	w := newWorld(t, Limits{VIPs: 8, Pools: 4, Backends: 64, Slots: 4096})
	w.pool("a", 251, backendsOf(0, 8)...)
	w.vip(1, "a")
	w.apply()
	var stop atomic.Bool
	var sent, astray atomic.Uint64
	done := make(chan error)
	go func() {
		in := ipv4().packet(udp{from: 1, to: 1})
		frame := in.bytes()
		for port := uint16(0); !stop.Load(); port++ {
			verdict, out, err := send(w.Plane, set(frame, in.l4(), byte(port>>8), byte(port)))
			if err != nil {
				done <- err
				return
			}
			// The number of a backend of pool a is below 50.
			if verdict != xdpTX || out[4] != 0 || out[5] >= 50 {
				astray.Add(1)
			}
			sent.Add(1)
		}
		done <- nil
	}()
	for i := range 12 {
		switch i % 4 {
		case 0:
			w.pool("a", 509, backendsOf(8, 9)...)
		case 1:
			w.pool("b", 251, backendsOf(100, 8)...)
			w.vip(2, "b")
		case 2:
			w.pool("a", 251, backendsOf(0, 8)...)
		case 3:
			delete(w.pools, "b")
			delete(w.vips, vipName(2))
		}
		w.apply()
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if astray.Load() != 0 || sent.Load() == 0 {
		t.Errorf("%d of %d packets went astray", astray.Load(), sent.Load())
	}
	t.Logf("%d packets", sent.Load())
}

func TestMaps(t *testing.T) {
	w := newWorld(t, Limits{VIPs: 10, Pools: 4, Backends: 64, Slots: 1024})
	w.pool("a", 251, backendsOf(0, 3)...)
	w.vip(1, "a")
	w.vip(2, "a")
	w.apply()
	want := map[string][2]uint64{
		"vips": {2, 10}, "vip_counters": {2, 10}, "pools": {1, 4},
		"slots": {256, 1024}, "flows": {0, 4}, "backends": {8, 64}, "backend_counters": {8, 64},
		"translations": {0, 0}, "sessions": {0, 8},
	}
	for _, m := range w.Maps() {
		if got := [2]uint64{m.Used, m.Capacity}; got != want[m.Name] {
			t.Errorf("%s: %d of %d, want %d of %d", m.Name, got[0], got[1], want[m.Name][0], want[m.Name][1])
		}
		if m.Bytes == 0 {
			t.Errorf("%s takes no memory", m.Name)
		}
		delete(want, m.Name)
	}
	for name := range want {
		t.Errorf("no map %s", name)
	}
}

func TestBackendRecord(t *testing.T) {
	four, six := model.BackendID{Address: netip.MustParseAddr("10.0.0.10")}, model.BackendID{Address: netip.MustParseAddr("2001:db8::10")}
	path := forwarding.Path{Link: 3, VLAN: 0x123, Source: mac{1, 2, 3, 4, 5, 6}, Destination: mac{7, 8, 9, 10, 11, 12}, OnLink: true, MTU: 70000}
	l2, outer, nat := uint8(1<<lbModeMODE_DSR_L2), uint8(1<<lbModeMODE_DSR_IPIP|1<<lbModeMODE_DSR_GUE), uint8(1<<lbModeMODE_NAT)
	with := func(source string, onLink bool) *forwarding.Path {
		p := path
		p.OnLink = onLink
		if source != "" {
			p.Outer = netip.MustParseAddr(source)
		}
		return &p
	}
	for name, c := range map[string]struct {
		id    model.BackendID
		path  *forwarding.Path
		modes uint8
		ipv4  uint8
	}{
		"ipv4":                     {four, with("10.0.0.1", true), l2 | outer | nat, 1},
		"ipv4 through a gateway":   {four, with("10.0.0.1", false), outer | nat, 1},
		"ipv4 without a source":    {four, with("", true), l2 | nat, 1},
		"ipv4 with an IPv6 source": {four, with("2001:db8::1", true), l2 | nat, 1},
		"ipv6":                     {six, with("2001:db8::1", true), l2 | outer | nat, 0},
		"ipv6 with an IPv4 source": {six, with("10.0.0.1", false), nat, 0},
	} {
		b := backendRecord(c.id, c.path, natSources{})
		if b.Modes != c.modes || b.OuterIpv4 != c.ipv4 {
			t.Errorf("%s: modes %b, outer IPv4 %d, want %b, %d", name, b.Modes, b.OuterIpv4, c.modes, c.ipv4)
		}
		if b.Ifindex != 3 || b.Mtu != 65535 || b.Vlan != bits.ReverseBytes16(0x123) || b.Mac != [12]byte{7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6} {
			t.Errorf("%s: %+v", name, b)
		}
	}
	if b := backendRecord(four, nil, natSources{}); b != (lbBackend{OuterIpv4: 1, OuterDestination: address(four.Address)}) {
		t.Errorf("without a path: %+v", b)
	}
}
