package health

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

var localhost = netip.MustParseAddr("127.0.0.1")

func status(t *testing.T, c *Checker, k Key) model.CheckStatus {
	t.Helper()
	s, ok := c.Snapshot().Check(k)
	if !ok {
		t.Fatalf("no target %v", k)
	}
	return s
}

func waitHealth(t *testing.T, c *Checker, k Key, want model.Health) model.CheckStatus {
	t.Helper()
	eventually(t, "health is "+want.String(), func() bool { return status(t, c, k).Health == want })
	return status(t, c, k)
}

// staller is a web server that answers no request; awaited counts those that
// wait, gone those whose client hung up.
func staller(t *testing.T) (to netip.AddrPort, awaited, gone *atomic.Int64) {
	t.Helper()
	awaited, gone = new(atomic.Int64), new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ok" {
			return
		}
		awaited.Add(1)
		<-r.Context().Done()
		gone.Add(1)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort(), awaited, gone
}

// patient is a check that a staller holds up for the whole test.
func patient(path string) model.Check {
	return model.Check{Type: model.CheckHTTP, Path: path, Interval: time.Hour, Timeout: time.Hour}
}

func TestFollowsAServer(t *testing.T) {
	to, stop := listen(t, anyPort(localhost), func(net.Conn) {})
	target := aim(to, quick(model.CheckTCP))
	c := New()
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s.Health != model.HealthUnknown {
		t.Errorf("before the first probe: %+v", s)
	}
	start(t, c)
	for round := range 2 {
		s := waitHealth(t, c, target.Key, model.HealthUp)
		want := "first probe passed: L4OK after "
		if round > 0 {
			want = "2 of 2 probes passed: L4OK after "
		}
		if s.Result != L4OK || !strings.HasPrefix(s.Reason, want) {
			t.Errorf("round %d, up: %+v", round, s)
		}
		waitChanged(t, c)
		stop()
		s = waitHealth(t, c, target.Key, model.HealthDown)
		if s.Result != L4CON || s.Detail != "connection refused" || !strings.HasPrefix(s.Reason, "3 of 3 probes failed: L4CON after ") {
			t.Errorf("round %d, down: %+v", round, s)
		}
		if s.Checked.Before(s.Since) {
			t.Errorf("round %d: checked %v, before the change %v", round, s.Checked, s.Since)
		}
		waitChanged(t, c)
		_, stop = listen(t, to, func(net.Conn) {})
	}
}

// Probes that find what is known signal nothing.
func TestChangedMeansHealth(t *testing.T) {
	to, stop := listen(t, anyPort(localhost), func(net.Conn) {})
	target := aim(to, quick(model.CheckTCP))
	c := New()
	c.Set([]Target{target})
	start(t, c)
	waitChanged(t, c)
	for range 3 {
		last := status(t, c, target.Key)
		eventually(t, "another probe", func() bool { return status(t, c, target.Key).Checked.After(last.Checked) })
	}
	select {
	case <-c.Changed():
		t.Error("signalled without a change of health")
	default:
	}
	stop()
	waitChanged(t, c)
}

func TestReloadKeepsState(t *testing.T) {
	to, _ := listen(t, anyPort(localhost), func(net.Conn) {})
	target := aim(to, quick(model.CheckTCP))
	c := New()
	c.Set([]Target{target})
	start(t, c)
	up := waitHealth(t, c, target.Key, model.HealthUp)
	for name, change := range map[string]func(*model.Check){
		"nothing":  func(*model.Check) {},
		"interval": func(c *model.Check) { c.Interval *= 2 },
		"counts":   func(c *model.Check) { c.Rise, c.Fall = 9, 9 },
		"port":     func(c *model.Check) { c.Port = to.Port() },
		"type":     func(c *model.Check) { c.Type = model.CheckICMP },
	} {
		change(&target.Check)
		c.Set([]Target{target})
		if s := status(t, c, target.Key); s.Health != model.HealthUp || s.Since != up.Since || s.Reason != up.Reason {
			t.Errorf("a change of %s turns %+v into %+v", name, up, s)
		}
	}
	// The control: what was removed is forgotten.
	c.Set(nil)
	if _, known := c.Snapshot().Check(target.Key); known {
		t.Error("a removed target is still known")
	}
	target.Check = patient("/")
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s.Health != model.HealthUnknown || s.Since.Before(up.Since) {
		t.Errorf("a target that comes back is %+v, want unknown", s)
	}
}

// What a reload does to counting and to the schedule, without a scheduler.
func TestReloadCountsAndSchedule(t *testing.T) {
	a := aim(netip.MustParseAddrPort("192.0.2.1:80"), model.Check{Type: model.CheckTCP, Interval: time.Minute})
	b := aim(netip.MustParseAddrPort("192.0.2.2:80"), model.Check{Type: model.CheckTCP, Interval: time.Minute})
	c := New()
	c.Set([]Target{a, b})
	tg := c.targets[0]
	began := time.Now()
	set := func(change func(*model.Check)) {
		tg.streak, tg.started, tg.due = 2, began, began.Add(time.Minute)
		c.queue.fix(tg)
		change(&a.Check)
		c.Set([]Target{b, a})
		if c.targets[1] != tg {
			t.Fatal("the target was replaced")
		}
	}
	expect := func(name string, streak uint32, due time.Time) {
		t.Helper()
		if tg.streak != streak || tg.due.After(due) {
			t.Errorf("%s: streak %d, due %v after the last start; want %d, %v", name, tg.streak, tg.due.Sub(began), streak, due.Sub(began))
		}
	}
	set(func(*model.Check) {})
	expect("nothing", 2, began.Add(time.Minute))
	if !tg.due.Equal(began.Add(time.Minute)) {
		t.Error("a reload without a change moves the schedule")
	}
	set(func(c *model.Check) { c.Fall = 5 })
	expect("fall", 2, began.Add(time.Minute))
	set(func(c *model.Check) { c.Interval = time.Second })
	expect("interval", 2, began.Add(time.Second))
	if c.queue[0] == tg {
		t.Error("a target that has waited less is served first")
	}
	set(func(c *model.Check) { c.Port = 81 })
	expect("port", 0, time.Now())
	if len(c.queue) != 2 {
		t.Errorf("%d targets are queued, want 2", len(c.queue))
	}
}

// A probe that asks what is no longer asked is called off and counts for nothing.
func TestReloadCallsOffTheProbe(t *testing.T) {
	to, awaited, gone := staller(t)
	target := aim(to, patient("/"))
	c := New()
	c.Set([]Target{target})
	start(t, c)
	eventually(t, "the first probe", func() bool { return awaited.Load() == 1 })
	// The control: without a change, it goes on.
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s.Health != model.HealthUnknown || gone.Load() != 0 {
		t.Errorf("a reload without a change called the probe off: %+v", s)
	}
	target.Check.Path = "/ok"
	c.Set([]Target{target})
	waitChanged(t, c)
	if s := status(t, c, target.Key); s.Health != model.HealthUp || s.Result != L7OK {
		t.Errorf("after the correction: %+v", s)
	}
	eventually(t, "the old probe is gone", func() bool { return gone.Load() == 1 })
}

// The same for a probe that has just ended, but was not yet judged.
func TestReloadDropsTheOldAnswer(t *testing.T) {
	for name, port := range map[string]uint16{"changed": 9, "unchanged": 0} {
		t.Run(name, func(t *testing.T) {
			target := aim(refused(t, localhost), model.Check{Type: model.CheckTCP})
			c := New()
			c.Set([]Target{target})
			reports, probes := make(chan report, 1), new(sync.WaitGroup)
			c.startDue(t.Context(), probes, reports)
			probes.Wait()
			target.Check.Port = port
			c.Set([]Target{target})
			c.collect(reports)
			want := model.HealthUnknown
			if port == 0 {
				want = model.HealthDown
			}
			if s := status(t, c, target.Key); s.Health != want {
				t.Errorf("the answer to the old check makes it %+v, want %v", s, want)
			}
			if len(c.queue) != 1 || c.inFlight != 0 {
				t.Errorf("%d queued, %d in flight; want 1, 0", len(c.queue), c.inFlight)
			}
		})
	}
}

func TestRemovalClosesTheProbe(t *testing.T) {
	to, awaited, gone := staller(t)
	stays, goes := aim(to, patient("/stays")), aim(to, patient("/goes"))
	goes.Key.Check = "goes"
	c := New()
	c.Set([]Target{stays, goes})
	start(t, c)
	eventually(t, "both probes", func() bool { return awaited.Load() == 2 })
	c.Set([]Target{stays})
	eventually(t, "the removed target's probe is gone", func() bool { return gone.Load() == 1 })
	eventually(t, "its end is noted", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.inFlight == 1
	})
	if n := len(slices.Collect(maps.Keys(maps.Collect(c.Snapshot().All())))); n != 1 {
		t.Errorf("%d targets are known, want 1", n)
	}
}

func TestRestore(t *testing.T) {
	to := refused(t, localhost)
	target := aim(to, quick(model.CheckTCP))
	up := model.CheckStatus{Name: "tcp", Health: model.HealthUp, Since: epoch, Checked: time.Now().Add(time.Hour), Reason: "2 of 2 probes passed"}
	last := map[Key]model.CheckStatus{target.Key: up, {Pool: "gone"}: up}

	c := New()
	c.Restore(last)
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s != up {
		t.Errorf("before any probe: %+v, want %+v", s, up)
	}
	start(t, c)
	if s := waitHealth(t, c, target.Key, model.HealthDown); !strings.HasPrefix(s.Reason, "3 of 3 probes failed") {
		t.Errorf("a fresh result went down by: %s", s.Reason)
	}
	// The control: without a restored result.
	c = New()
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s.Health != model.HealthUnknown {
		t.Errorf("without restoring: %+v", s)
	}
	// Restored after the targets are known, from a snapshot.
	c.Restore(maps.Collect((&Snapshot{keys: []Key{target.Key}, statuses: []*model.CheckStatus{&up}}).All()))
	if s := status(t, c, target.Key); s != up {
		t.Errorf("restored late: %+v, want %+v", s, up)
	}
	waitChanged(t, c)
	// What is known from probes is not overwritten.
	down := up
	down.Health = model.HealthDown
	c.Restore(map[Key]model.CheckStatus{target.Key: down})
	if s := status(t, c, target.Key); s.Health != model.HealthUp {
		t.Errorf("restored over what is known: %+v", s)
	}
	// A removed target does not come back with old results.
	c.Set(nil)
	c.Set([]Target{target})
	if s := status(t, c, target.Key); s.Health != model.HealthUnknown {
		t.Errorf("a removed target came back as %+v", s)
	}
}

// At the limit probes wait for their turn; at no time are there two of one target.
func TestLimit(t *testing.T) {
	to, awaited, gone := staller(t)
	check := quick(model.CheckHTTP)
	check.Timeout, check.Jitter = check.Interval, 50
	var targets []Target
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		check.Name = name
		targets = append(targets, aim(to, check))
	}
	c := New(WithLimit(2))
	c.Set(targets)
	start(t, c)
	eventually(t, "twenty probes", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		flying := 0
		for _, tg := range c.targets {
			if (tg.place == absent) != (tg.cancel != nil) {
				t.Fatal("a target is both queued and in flight, or neither")
			}
			if tg.cancel != nil {
				flying++
			}
		}
		if flying != c.inFlight || flying > 2 || flying+len(c.queue) != len(targets) {
			t.Fatalf("%d in flight, %d counted, %d queued", flying, c.inFlight, len(c.queue))
		}
		return gone.Load() >= 20
	})
	if awaited.Load() < gone.Load() {
		t.Error("more requests ended than began")
	}
	for k, s := range c.Snapshot().All() {
		if s.Health != model.HealthDown {
			t.Errorf("%v is %+v, want down", k, s)
		}
	}
}

func TestRunAgain(t *testing.T) {
	to, stop := listen(t, anyPort(localhost), func(net.Conn) {})
	target := aim(to, quick(model.CheckTCP))
	c := New()
	c.Set([]Target{target})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	up := waitHealth(t, c, target.Key, model.HealthUp)
	if err := c.Run(ctx); !errors.Is(err, errRunning) {
		t.Errorf("a second Run returns %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := status(t, c, target.Key); s.Since != up.Since {
		t.Errorf("stopping turned %+v into %+v", up, s)
	}
	stop()
	start(t, c)
	waitHealth(t, c, target.Key, model.HealthDown)
}

// Stopping, whether by cancellation or by a deadline, is not held against backends.
func TestStopDoesNotCount(t *testing.T) {
	to, awaited, gone := staller(t)
	target := aim(to, patient("/"))
	for i, stopping := range []time.Duration{time.Hour, time.Second} {
		c := New()
		c.Set([]Target{target})
		before := descriptors(t)
		ctx, cancel := context.WithTimeout(context.Background(), stopping)
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		eventually(t, "a probe in flight", func() bool { return awaited.Load() == int64(i+1) })
		if stopping == time.Hour {
			if descriptors(t) <= before {
				t.Error("a probe in flight holds no descriptor")
			}
			cancel()
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		cancel()
		if s := status(t, c, target.Key); s.Health != model.HealthUnknown || !s.Checked.IsZero() {
			t.Errorf("a probe that was called off counted: %+v", s)
		}
		eventually(t, "the server sees it end", func() bool { return gone.Load() == int64(i+1) })
	}
}

// Probes of every kind and outcome leave no descriptor open.
func TestNoDescriptorLeak(t *testing.T) {
	// The collector would close what is left open, and hide it.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	stalled, _, _ := staller(t)
	_, plain := serve(t, false, localhost)
	_, secure := serve(t, true, localhost)
	mute := answerUDP(t, localhost, func([]byte) []byte { return nil })
	closed := refused(t, localhost)
	check := func(kind model.CheckType, name, send string) model.Check {
		c := quick(kind)
		c.Name, c.Send, c.Timeout = name, send, c.Interval
		return c
	}
	targets := []Target{
		aim(plain, check(model.CheckTCP, "tcp", "")), aim(closed, check(model.CheckTCP, "tcp", "")), aim(blackhole(t), check(model.CheckTCP, "tcp", "")),
		aim(plain, check(model.CheckHTTP, "http", "")), aim(stalled, check(model.CheckHTTP, "http", "")), aim(secure, check(model.CheckHTTPS, "https", "")),
		aim(plain, check(model.CheckHTTPS, "no-tls", "")), aim(mute, check(model.CheckUDP, "udp", "x")), aim(closed, check(model.CheckUDP, "udp", "x")),
		aim(plain, check(model.CheckICMP, "icmp", "")), aim(netip.MustParseAddrPort("[::1]:1"), check(model.CheckICMP, "icmp", "")),
	}
	run := func() {
		c := New()
		c.Set(targets)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		for range 10 {
			last := c.Snapshot()
			for k, s := range last.All() {
				eventually(t, "another probe", func() bool { return status(t, c, k).Checked.After(s.Checked) })
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	run()
	// Servers close their ends in their own time.
	before := descriptors(t)
	run()
	eventually(t, "no more descriptors than before", func() bool { return descriptors(t) <= before })
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	to, _ := listen(t, anyPort(localhost), func(net.Conn) {})
	pool := &model.Pool{Name: "web", Checks: []model.Check{quick(model.CheckTCP)}}
	target := aim(to, pool.Checks[0])
	c := New()
	start(t, c)
	var users sync.WaitGroup
	for i := range 4 {
		users.Go(func() {
			for n := range 200 {
				mine := target
				mine.Check.Fall = uint32(n%7 + 1)
				mine.Check.Port = to.Port() * uint16(n%2)
				switch i {
				case 0:
					c.Set([]Target{mine, mine})
				case 1:
					c.Set(nil)
				case 2:
					c.Restore(maps.Collect(c.Snapshot().All()))
				case 3:
					c.Snapshot().Backend(pool, target.Backend)
				}
			}
		})
	}
	users.Wait()
	c.Set([]Target{target, target})
	waitHealth(t, c, target.Key, model.HealthUp)
	if n := len(c.Snapshot().statuses); n != 1 {
		t.Errorf("a key given twice makes %d targets", n)
	}
}
