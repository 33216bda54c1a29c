package dataplane

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// newRoomRig is a rig whose VIP remembers every flow for long, with one backend of a limit.
func newRoomRig(t *testing.T, limit uint32) *fluxRig {
	t.Helper()
	r := newFluxRig(t, model.TrackingAlways, model.TCP)
	r.desired.VIPs[0].IdleTimeout = 15 * time.Minute
	r.add(0, 1)
	r.limit(1, limit)
	return r
}

// limit gives a backend of the first pool a limit of connections.
func (r *fluxRig) limit(n int, connections uint32) {
	r.Helper()
	r.desired.Pools[0].Backends[n-1].MaxConnections = connections
	r.apply()
}

// admitted opens connections, from a flow on, and returns how many get in.
func (r *fluxRig) admitted(first, n uint32) int {
	r.Helper()
	got := 0
	for f := first; f < first+n; f++ {
		if r.send(f, syn) < 0 {
			continue
		}
		got++
		r.send(f, ack)
	}
	return got
}

// wantAdmitted wants so many of ten connections to get in.
func (r *fluxRig) wantAdmitted(when string, first uint32, want int) {
	r.Helper()
	before := r.plane.count(r, "drop_limit_backend")
	if got := r.admitted(first, 10); got != want {
		r.Errorf("%s: %d of 10 connections get in, want %d", when, got, want)
	}
	if n := r.plane.count(r, "drop_limit_backend") - before; n != uint64(10-want) {
		r.Errorf("%s: %d packets are counted as drop_limit_backend, want %d", when, n, 10-want)
	}
}

// wantThere wants connections to go on, whoever else is refused.
func (r *fluxRig) wantThere(when string, first, n uint32) {
	r.Helper()
	for f := first; f < first+n; f++ {
		if r.send(f, ack) < 0 || r.send(f, syn) < 0 {
			r.Errorf("%s: connection %d does not go on, or its SYN that comes again", when, f)
		}
	}
}

func (r *fluxRig) closeFlows(first, n uint32) {
	r.Helper()
	for f := first; f < first+n; f++ {
		r.send(f, fin)
	}
}

// TestBackendLimit: so many get in, who is in stays, and who goes makes room.
func TestBackendLimit(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		for _, mode := range []model.Mode{model.ModeDSRL2, model.ModeNAT} {
			r := newRoomRig(t, 0)
			if f.ipv6 && mode == model.ModeNAT {
				continue // the rig's backends are of IPv4
			}
			r.take(f, mode)
			r.limit(1, 0)
			r.wantAdmitted("without a limit", 1000, 10)
			r.closeFlows(1000, 10)
			r.pass(3 * time.Second)
			r.limit(1, 5)
			r.pass(time.Second)
			r.wantAdmitted("at first", 0, 5)
			r.wantThere("when it is full", 0, 5)
			r.pass(time.Second)
			r.wantAdmitted("after a sweep", 10, 0)
			r.closeFlows(0, 2)
			r.wantAdmitted("before a sweep has found the room", 20, 0)
			r.pass(3 * time.Second)
			r.wantAdmitted("when two have gone", 30, 2)
			r.wantThere("in the end", 2, 3)
			r.wantThere("in the end", 30, 2)
		}
	}
}

// TestLimitOfUDP: where a protocol has no first packets, unknown flows are new ones.
func TestLimitOfUDP(t *testing.T) {
	r := newFluxRig(t, model.TrackingAlways, model.UDP)
	r.add(0, 1)
	r.limit(1, 4)
	r.wantAdmitted("at first", 0, 4)
	r.limit(1, 0)
	r.wantAdmitted("without a limit", 10, 10)
}

// TestHalfOpenGivesWay: what is no connection after ten seconds holds no place, and has to
// get in anew. A connection holds it, however silent.
func TestHalfOpenGivesWay(t *testing.T) {
	r := newRoomRig(t, 5)
	for f := range uint32(5) {
		r.send(f, syn)
	}
	r.pass(8 * time.Second)
	r.wantAdmitted("while they may become connections", 10, 0)
	r.pass(3 * time.Second)
	r.wantAdmitted("when they will not", 20, 5)
	if r.send(0, syn) >= 0 {
		t.Error("one that has lost its place has it again")
	}
	r.pass(5 * time.Minute)
	r.wantAdmitted("while there are connections", 30, 0)
}

// TestLateConnectionCounts: one that becomes a connection after it has lost its place goes on,
// and counts at once.
func TestLateConnectionCounts(t *testing.T) {
	r := newRoomRig(t, 5)
	r.send(0, syn)
	r.pass(11 * time.Second)
	if r.send(0, ack) < 0 {
		t.Fatal("it does not go on")
	}
	r.wantAdmitted("besides it", 10, 4)
}

// TestLimitChanges: a lower limit breaks nothing, and holds at once; a higher one when a sweep
// has found how many there are.
func TestLimitChanges(t *testing.T) {
	r := newRoomRig(t, 10)
	r.wantAdmitted("at first", 0, 10)
	r.limit(1, 4)
	r.wantThere("with a lower limit", 0, 10)
	r.wantAdmitted("with a lower limit", 10, 0)
	r.pass(time.Second)
	r.wantThere("after a sweep", 0, 10)
	r.closeFlows(0, 7)
	r.pass(3 * time.Second)
	r.wantAdmitted("when seven have gone", 20, 1)
	r.limit(1, 8)
	r.pass(time.Second)
	r.wantAdmitted("with a higher limit", 30, 4)
	r.limit(1, 0)
	r.wantAdmitted("without one", 40, 10)
	r.limit(1, 20)
	r.wantAdmitted("with one anew, until they are counted", 50, 0)
	r.pass(time.Second)
	r.wantAdmitted("when they are", 60, 2)
}

// TestLowerLimitKeepsItsRoom: what is free below the lower one may be taken before any sweep.
func TestLowerLimitKeepsItsRoom(t *testing.T) {
	r := newRoomRig(t, 10)
	r.admitted(0, 3)
	r.limit(1, 5)
	r.wantAdmitted("with a lower limit", 10, 2)
}

// TestLimitOfAnotherBackend: a number that is used again begins with all its room.
func TestLimitOfAnotherBackend(t *testing.T) {
	r := newRoomRig(t, 3)
	r.wantAdmitted("at first", 0, 3)
	at := r.plane.applied.places["a"]
	index := at.base() + at.owners[r.desired.Pools[0].Backends[0].BackendID]
	r.add(0, 2)
	r.desired.Pools[0].Backends = r.desired.Pools[0].Backends[1:]
	r.apply()
	for range 4 {
		r.pass(16 * time.Minute)
	}
	if room := r.plane.rooms.elements[index]; room != (lbRoom{}) {
		t.Fatalf("the room of a backend that is gone is %+v", room)
	}
	r.add(0, 3)
	r.desired.Pools[0].Backends = r.desired.Pools[0].Backends[1:]
	r.limit(1, 4)
	if owner := at.owners[r.desired.Pools[0].Backends[0].BackendID]; at.base()+owner != index {
		t.Fatalf("the new backend has number %d, want %d", at.base()+owner, index)
	}
	r.wantAdmitted("of the other one", 100, 4)
}

// TestLimitOfGrownPool: a pool that outgrows its place gives its backends other numbers, and
// their limits are those of both together.
func TestLimitOfGrownPool(t *testing.T) {
	r := newRoomRig(t, 4)
	r.wantAdmitted("at first", 0, 4)
	for n := 2; n < 30; n++ {
		r.add(0, n)
		r.desired.Pools[0].Backends[n-1].State = model.Disabled
	}
	r.apply()
	r.wantThere("in a larger place", 0, 4)
	r.wantAdmitted("in a larger place", 10, 0)
	r.pass(time.Second)
	r.wantAdmitted("when they are counted", 20, 0)
	r.closeFlows(0, 3)
	r.pass(3 * time.Second)
	r.wantAdmitted("when three have gone", 30, 3)
}

// entriesOf counts the entries of the flow table.
func (p *Plane) entriesOf() int {
	n := 0
	for i := range p.flows.elements {
		for j := range p.flows.elements[i].Flow {
			if _, _, ok := loadFlow(&p.flows.elements[i].Flow[j]); ok {
				n++
			}
		}
	}
	return n
}

// raceForRoom has senders open connections at the same time, while sweeps count them, and
// returns how many entries there are then.
func raceForRoom(t *testing.T, limit uint32) int {
	const rounds = 400
	r := newRoomRig(t, limit)
	frames := make([][]byte, 0, 64*rounds)
	for f := range uint32(64 * rounds) {
		frames = append(frames, r.frame(f, syn))
	}
	var ended atomic.Bool
	swept := make(chan error, 1)
	go func() {
		var err error
		for !ended.Load() && err == nil {
			_, err = r.plane.Sweep(1 << 20)
		}
		swept <- err
	}()
	var next atomic.Int64
	together(rounds, func(_, _ int) {
		for range 4 {
			if _, _, err := send(r.plane, frames[int(next.Add(1))%len(frames)]); err != nil {
				t.Error(err)
			}
		}
	})
	ended.Store(true)
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	return r.plane.entriesOf()
}

// TestRaceForRoom: CPUs that race for the last places, and with sweeps, never take more than
// there are. The control: without the limit they do.
func TestRaceForRoom(t *testing.T) {
	t.Parallel()
	const limit = 300
	if n := raceForRoom(t, limit); n > limit || n < limit/2 {
		t.Errorf("%d connections got in, want %d, or a few less", n, limit)
	}
	if n := raceForRoom(t, 0); n <= limit {
		t.Errorf("only %d connections were tried: the test shows nothing", n)
	}
}

// TestLimitAcrossRestart: another daemon goes on with the room that there was; over maps of
// other sizes it counts first.
func TestLimitAcrossRestart(t *testing.T) {
	path := bpffs(t)
	r := newRoomRig(t, 0)
	limits := withRoom(Limits{VIPs: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 1 << 12})
	reopen := func() {
		t.Helper()
		if r.plane.pin != nil {
			if err := r.plane.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if r.plane, err = Open(path, limits, Options{Seed: Seed{1, 2}}); err != nil {
			t.Fatal(err)
		}
		r.plane.SetClock(max(r.now, r.plane.Clock()))
		r.limit(1, 8)
	}
	reopen()
	if n := r.admitted(0, 3); n != 3 {
		t.Fatalf("%d get in at first", n)
	}
	reopen()
	r.wantThere("after a restart", 0, 3)
	if n := r.admitted(10, 2); n != 2 {
		t.Errorf("%d of 2 get in after a restart, before any sweep", n)
	}
	limits.Flows = 1 << 13
	reopen()
	r.wantThere("with other sizes", 0, 3)
	r.wantAdmitted("with other sizes, before a sweep", 20, 0)
	r.pass(time.Second)
	r.wantAdmitted("when they are counted", 30, 3)
	reopen()
	r.wantAdmitted("after another restart", 40, 0)
	t.Cleanup(func() { r.plane.Close() })
}

// TestRooms tells what is known of rooms, once a sweep has ended.
func TestRooms(t *testing.T) {
	r := newRoomRig(t, 3)
	key := BackendKey{"a", model.BackendID{Address: netip.AddrFrom4([4]byte{10, 0, 0, 1})}}
	if rooms := r.plane.Rooms(); rooms != nil || !r.plane.NeedsSweep() {
		t.Errorf("before a sweep: %+v", rooms)
	}
	r.admitted(0, 2)
	r.pass(time.Second)
	for n, want := range []Room{{key, 3, 2, false}, {key, 3, 3, true}} {
		if rooms := r.plane.Rooms(); len(rooms) != 1 || rooms[0] != want {
			t.Errorf("%d more: %+v, want %+v", n, rooms, want)
		}
		r.admitted(10, 1)
	}
}

// TestLimitOfFullNAT: of both protocols together, and what has ended makes room.
func TestLimitOfFullNAT(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		l := newNATTable(t, natSetting{options: natOptions()})
		var s natServed
		for _, other := range l.any(f) {
			if other.mode == model.ModeFullNAT {
				s = other
			}
		}
		tries := func(n int, protocol model.Protocol) int {
			got := 0
			for range n {
				if verdict, _ := l.through(t, l.newTalk(s, protocol).ask(flagSYN, nil).bytes()); verdict != xdpDrop {
					got++
				}
			}
			return got
		}
		limit := func(n uint32) {
			state := servedState(l.services)
			for i := range state.Pools {
				for j := range state.Pools[i].Backends {
					state.Pools[i].Backends[j].MaxConnections = n
				}
			}
			if err := l.do(func() error { return l.Apply(state) }); err != nil {
				t.Fatal(err)
			}
		}
		if n := tries(20, model.TCP); n != 20 {
			t.Errorf("%s: without a limit %d of 20 get in", s.name, n)
		}
		limit(25)
		if n := tries(3, model.TCP); n != 0 {
			t.Errorf("%s: %d get in before connections are counted", s.name, n)
		}
		l.sweeps(1)
		c := l.talk(s, model.TCP)
		before := l.count(t, "drop_limit_backend")
		if n := tries(3, model.TCP) + tries(4, model.UDP); n != 4 {
			t.Errorf("%s: %d of 7 get in, want 4", s.name, n)
		}
		if n := l.count(t, "drop_limit_backend") - before; n != 3 {
			t.Errorf("%s: %d are counted as refused, want 3", s.name, n)
		}
		if err := l.goesOn(c); err != nil {
			t.Errorf("%s: a connection of a full backend: %v", s.name, err)
		}
		l.inject(c, natOpen|lbNatFlagNAT_RESET, 3*time.Second)
		l.sweeps(1)
		if n := tries(5, model.TCP); n != 1 {
			t.Errorf("%s: %d get in when one was reset, want 1", s.name, n)
		}
	}
}
