package neighbor

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestEntryPhases(t *testing.T) {
	const (
		none, incomplete, reachable = netlink.NUD_NONE, netlink.NUD_INCOMPLETE, netlink.NUD_REACHABLE
		stale, probe, failed        = netlink.NUD_STALE, netlink.NUD_PROBE, netlink.NUD_FAILED
	)
	for _, row := range []struct {
		name   string
		states []int
		want   phase
		ask    bool
	}{
		{"not there", []int{none}, unresolved, true},
		{"the kernel is at it", []int{incomplete}, unresolved, false},
		{"resolved", []int{incomplete, reachable}, resolved, false},
		{"permanent", []int{netlink.NUD_PERMANENT}, resolved, false},
		{"no ARP", []int{netlink.NUD_NOARP}, resolved, false},
		{"stale is used and confirmed", []int{reachable, stale}, resolved, true},
		{"being confirmed", []int{reachable, stale, probe}, resolved, false},
		{"confirmed", []int{stale, probe, reachable}, resolved, false},
		{"deleted keeps its MAC", []int{reachable, none}, again, true},
		{"confirmation failed keeps its MAC", []int{reachable, probe, failed}, again, true},
		{"asked for again", []int{reachable, none, incomplete}, again, false},
		{"resolved again", []int{reachable, failed, reachable}, resolved, false},
		{"broadcast failed too", []int{reachable, failed, failed}, silent, false},
		{"deleted, then no answer", []int{reachable, none, failed}, silent, false},
		{"never answered", []int{none, failed}, silent, false},
		{"silent while asked for", []int{failed, incomplete}, silent, false},
		{"silent and collected", []int{failed, none}, silent, false},
		{"silent no more", []int{failed, reachable}, resolved, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var e entry
			for _, state := range row.states {
				var mac []byte
				if state&usable != 0 {
					mac = []byte{2, 0, 0, 0, 0, 1}
				}
				e.observe(state, mac)
			}
			if e.phase != row.want || e.ask != row.ask {
				t.Errorf("phase %d, ask %v; want %d, %v", e.phase, e.ask, row.want, row.ask)
			}
			if known := e.mac != [6]byte{}; (e.phase == resolved || e.phase == again) && !known {
				t.Error("no MAC")
			}
		})
	}
	e := entry{phase: silent}
	if e.reconcile(failed, nil); !e.ask {
		t.Error("a silent neighbour is not asked for at a reconciliation")
	}
	if e.reconcile(incomplete, nil); e.ask {
		t.Error("a neighbour that the kernel is asking for is asked for again")
	}
}

func TestRefusal(t *testing.T) {
	key := entryKey{1, netip.MustParseAddr("10.0.1.10")}
	full := refusalOf(key, "eth1", unix.ENOBUFS)
	if !strings.Contains(full, "net.ipv4.neigh.default.gc_thresh") {
		t.Errorf("full table: %s", full)
	}
	e := entry{refusal: full}
	if got := e.problem(key.addr, "eth1"); got != full {
		t.Errorf("problem: %s", got)
	}
	e.observe(netlink.NUD_REACHABLE, []byte{2, 0, 0, 0, 0, 1})
	if got := e.problem(key.addr, "eth1"); got != "" {
		t.Errorf("problem of a resolved neighbour: %s", got)
	}
}

// stateIn returns a settled state of the lab's balancer.
func stateIn(t *testing.T, r *Resolver, addrs ...string) *state {
	t.Helper()
	s := newState(r.kernel)
	var parsed []netip.Addr
	for _, a := range addrs {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	s.want(parsed)
	settle(t, s)
	return s
}

// watching returns a function that waits for the next notice.
func watching(t *testing.T, r *Resolver) func() notice {
	t.Helper()
	notices, done := make(chan notice), make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { r.changes.watch(notices, done) })
	t.Cleanup(func() {
		close(done)
		r.Close()
		watcher.Wait()
	})
	return func() notice {
		t.Helper()
		select {
		case n := <-notices:
			if n.err != nil {
				t.Fatal(n.err)
			}
			return n
		case <-time.After(patience):
			t.Fatal("no notification")
		}
		return notice{}
	}
}

func settle(t *testing.T, s *state) {
	t.Helper()
	if _, err := s.settle(); err != nil {
		t.Fatal(err)
	}
}

// TestRoutesAreLookedUpOnlyWhenTheyChange puts a wrong route in the cache: it
// must outlive what has nothing to do with it, and not what has.
func TestRoutesAreLookedUpOnlyWhenTheyChange(t *testing.T) {
	l := newLab(t)
	l.balancer.route("198.51.100.0/24", "10.0.1.254")
	r := l.newResolver(t)
	s := stateIn(t, r, "198.51.100.10", "10.0.1.254")
	next := watching(t, r)
	addr := netip.MustParseAddr("198.51.100.10")
	wrong := s.routes[addr]
	wrong.mtu = 999
	// applied takes notifications until one makes the condition true.
	applied := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			n := next()
			if n.lost {
				t.Fatalf("%s: notifications were lost", what)
			}
			s.apply(n)
		}
		settle(t, s)
	}

	key := entryKey{s.routes[addr].link, netip.MustParseAddr("10.0.1.254")}
	s.routes[addr] = wrong
	applied("neighbour", func() bool { return s.entries[key].phase == resolved && len(s.todo.touched) > 0 })
	if hop := s.table[addr]; hop.Problem != "" || hop.MTU != 999 {
		t.Errorf("a neighbour event made the route looked up: %+v", hop)
	}

	prefixes := func() bool { return len(s.todo.prefixes) > 0 }
	l.balancer.route("203.0.113.0/24", "10.0.1.254")
	applied("another route", prefixes)
	if got := s.routes[addr]; got != wrong {
		t.Errorf("another route's event made this one looked up: %+v", got)
	}

	l.balancer.route("198.51.100.0/25", "10.0.2.254")
	applied("this route", prefixes)
	if got := s.routes[addr]; got.nextHop != netip.MustParseAddr("10.0.2.254") || got.mtu != 0 {
		t.Errorf("the route's event did not make it looked up: %+v", got)
	}
}

// TestLostNotifications makes the subscription overrun and moves a route
// meanwhile: the notification of it is lost, the change is not.
func TestLostNotifications(t *testing.T) {
	l := newLab(t)
	l.balancer.route("198.51.100.0/24", "10.0.1.254")
	r := l.newResolver(t)
	if err := r.changes.setBuffer(1); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("198.51.100.10")
	s := stateIn(t, r, "198.51.100.10")
	for range 100 {
		l.balancer.addr("eth2", "10.0.9.1/24")
		l.balancer.delAddr("eth2", "10.0.9.1/24")
	}
	l.balancer.route("198.51.100.0/24", "10.0.2.254")

	settle(t, s)
	if got := s.routes[addr].nextHop; got != netip.MustParseAddr("10.0.1.254") {
		t.Fatalf("control: without a notification the next hop is %s", got)
	}
	next := watching(t, r)
	n := next()
	if !n.lost {
		t.Fatalf("the subscription did not overrun: %+v", n)
	}
	if !s.apply(n) {
		t.Error("a loss does not call for settling")
	}
	settle(t, s)
	if got := s.routes[addr].nextHop; got != netip.MustParseAddr("10.0.2.254") {
		t.Errorf("after the loss the next hop is %s", got)
	}

	// The subscription goes on.
	l.balancer.route("192.0.2.0/24", "10.0.1.254")
	want := netip.MustParsePrefix("192.0.2.0/24")
	for found := false; !found; {
		for _, m := range next().messages {
			prefix, _ := routePrefix(m.Data)
			found = found || m.Header.Type == unix.RTM_NEWROUTE && prefix == want
		}
	}
}

func TestRunEndsWhenItsSocketFails(t *testing.T) {
	r := newLab(t).newResolver(t)
	r.changes.close()
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "read routing changes") {
		t.Errorf("error: %v", err)
	}
}
