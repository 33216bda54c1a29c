package cli_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/cli"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// fluxed is a service in the middle of a change.
func fluxed(t *testing.T) *bench {
	t.Helper()
	b := observed(t)
	b.must(t, "backend add web 10.0.1.12")
	b.must(t, "backend drain web 10.0.1.10 --deadline 10m")
	b.must(t, "backend remove web 10.0.1.12")
	b.now = b.now.Add(20 * time.Second)
	b.Observe(func(s *model.Status) {
		observe(s, b.now)
		resolvers, web := &s.Pools[0], &s.Pools[1]
		s.VIPs[0].Flows, s.VIPs[2].InFlux, s.VIPs[2].Flows = 3, true, 50
		web.SlotsInFlux = 21845
		web.Backends[0].Flows, web.Backends[0].KeepsFlows = 42, true
		web.Backends[2].Flows, web.Backends[2].Named = 8, true
		resolvers.Backends[0].Flows, resolvers.Backends[0].KeepsFlows = 3, true
		s.Flows = model.FlowTable{Live: 53, Capacity: 1 << 20, SlotsInFlux: 21845, Sweeps: 9, Entries: 1 << 20, Took: 1500 * time.Microsecond,
			Remembered: 60, Evicted: 1, EvictedConnections: 2, Unremembered: 3}
		s.Fragments = model.FragmentTable{Remembered: 700, Evicted: 8}
	})
	return b
}

func TestGoldenInFlux(t *testing.T) {
	b := fluxed(t)
	for name, line := range map[string]string{
		"flux-status.txt":        "status",
		"flux-status.json":       "status -o json",
		"flux-vip-show.txt":      "vip show web",
		"flux-pool-list.txt":     "pool list",
		"flux-pool-show.txt":     "pool show web",
		"flux-backend-show.txt":  "backend show web 10.0.1.10",
		"flux-backend-show.json": "backend show web 10.0.1.12 -o json",
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, b.must(t, line)) })
	}
}

func TestAlarm(t *testing.T) {
	b := newBench(t)
	var flows model.FlowTable
	var nat model.NATPorts
	b.Observe(func(s *model.Status) { s.Flows, s.NAT = flows, nat })
	for _, row := range []struct {
		flows model.FlowTable
		want  string
	}{
		{model.FlowTable{EvictedConnections: 1}, "1 connection evicted, 0 not remembered"},
		{model.FlowTable{Unremembered: 4}, "no connections evicted, 4 not remembered"},
	} {
		flows = row.flows
		if out := b.must(t, "status"); !strings.Contains(out, "\nALARM: ") || !strings.Contains(out, row.want) {
			t.Errorf("%s\nlacks %s", out, row.want)
		}
	}
	flows, nat = model.FlowTable{}, model.NATPorts{Used: 64, Capacity: 64, Exhausted: 1}
	if out := b.must(t, "status"); !strings.Contains(out, "\nfullnat: 64 of 64 ports in use\nALARM: fullnat had no port for 1 packet") {
		t.Errorf("%s\nlacks the alarm of fullnat", out)
	}
	nat = model.NATPorts{Used: 3, Capacity: 64}
	flows = model.FlowTable{Capacity: 8, Live: 8, Evicted: 7, Remembered: 100}
	if out := b.must(t, "status"); strings.Contains(out, "ALARM") {
		t.Errorf("alarm without a cause: %s", out)
	}
}

func TestRemoveSaysWhichHappened(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11 --backend 10.0.1.12 --backend 10.0.1.13,state=disabled --backend 10.0.1.14")
	for _, row := range []struct{ line, want string }{
		{"backend remove web 10.0.1.10", "draining backend 10.0.1.10 of pool web, then removing; revision 2"},
		{"backend remove web 10.0.1.11 10.0.1.13", "removed backend 10.0.1.13 of pool web; draining backend 10.0.1.11 of pool web, then removing; revision 3"},
		{"backend remove web 10.0.1.12 --now", "removed backend 10.0.1.12 of pool web; revision 4"},
		{"backend remove web 10.0.1.10 --deadline 5m", "draining backend 10.0.1.10 of pool web, then removing; revision 5"},
	} {
		if out := b.must(t, row.line); out != row.want+"\n" {
			t.Errorf("%s: %q, want %q", row.line, out, row.want)
		}
	}
	state, _ := b.Desired()
	want := []model.Backend{
		{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 1, State: model.Draining,
			Drain: model.Drain{Since: b.now, Deadline: b.now.Add(5 * time.Minute), Remove: true}},
		{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.11")}, Weight: 1, State: model.Draining, Drain: model.Drain{Since: b.now, Remove: true}},
		{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.14")}, Weight: 1, State: model.Enabled},
	}
	if got := state.Pools[0].Backends; !reflect.DeepEqual(got, want) {
		t.Errorf("backends\n%+v, want\n%+v", got, want)
	}
	if notes := b.Notes(); notes[1] != "remove backend 10.0.1.10 of pool web" {
		t.Errorf("notes %q", notes)
	}
	if out := b.must(t, "backend remove web 10.0.1.10 -o json"); !strings.Contains(out, `"draining": [
    "10.0.1.10"
  ]`) {
		t.Errorf("%s", out)
	}
}

// step is what a test does between two looks of --wait.
type step func()

// play makes the time between two looks pass with one step each.
func (b *bench) play(t *testing.T, steps ...step) {
	next := 0
	b.after = func(d time.Duration) {
		b.now = b.now.Add(d)
		if next == len(steps) {
			t.Fatal("still waiting after the last step")
		}
		steps[next]()
		next++
	}
	t.Cleanup(func() {
		if next < len(steps) {
			t.Errorf("only %d of %d steps were waited for", next, len(steps))
		}
	})
}

// finish does what the daemon does when draining ends.
func (b *bench) finish(t *testing.T, address string) step {
	return func() {
		_, err := b.Change(t.Context(), 0, "drained", func(s *model.State) error {
			p := &s.Pools[0]
			for i := range p.Backends {
				if d := &p.Backends[i]; d.String() == address && d.Drain.Remove {
					p.Backends = append(p.Backends[:i], p.Backends[i+1:]...)
					break
				} else if d.String() == address {
					d.State, d.Drain = model.Disabled, model.Drain{}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// left makes status show flows of draining backends.
func (b *bench) left(flows uint64, silent bool) step {
	return func() {
		b.Observe(func(s *model.Status) {
			for i := range s.Pools[0].Backends {
				if d := &s.Pools[0].Backends[i]; d.State == model.Draining {
					d.Flows, d.Named = flows, silent
				}
			}
		})
	}
}

func TestWait(t *testing.T) {
	const add = "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11 --backend 10.0.1.12"
	nothing := step(func() {})
	for name, row := range map[string]struct {
		line  string
		steps func(b *bench) []step
		want  string
		exit  int
		errs  string
	}{
		"drain": {"backend drain web 10.0.1.10 --deadline 10m --wait", func(b *bench) []step {
			return []step{nothing, b.left(41, true), b.left(41, false), b.left(1, false), b.left(0, false), nothing, b.finish(t, "10.0.1.10")}
		}, `draining backend 10.0.1.10 of pool web; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent; deadline in 10m0s
draining 10.0.1.10: 41 flows left, and those that are silent; deadline in 9m59s
draining 10.0.1.10: 41 flows left; deadline in 9m58s
draining 10.0.1.10: 1 flow left; deadline in 9m58s
draining 10.0.1.10: no flows left; deadline in 9m57s
drained 10.0.1.10: disabled
`, 0, ""},
		"remove": {"backend remove web 10.0.1.10 10.0.1.11 --wait", func(b *bench) []step {
			return []step{b.finish(t, "10.0.1.11"), b.finish(t, "10.0.1.10")}
		}, `draining backends 10.0.1.10, 10.0.1.11 of pool web, then removing; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent
draining 10.0.1.11: 42 flows left, and those that are silent
drained 10.0.1.11: removed
drained 10.0.1.10: removed
`, 0, ""},
		"deadline": {"backend drain web 10.0.1.10 --deadline 1s --wait", func(b *bench) []step {
			return []step{nothing, b.finish(t, "10.0.1.10")}
		}, `draining backend 10.0.1.10 of pool web; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent; deadline in 1s
drained 10.0.1.10: disabled at its deadline, with 42 flows left
`, 0, ""},
		"nothing to wait for": {"backend remove web 10.0.1.10 --now --wait", func(*bench) []step { return nil },
			"removed backend 10.0.1.10 of pool web; revision 2\n", 0, ""},
		"enabled meanwhile": {"backend drain web 10.0.1.10 --wait", func(b *bench) []step {
			return []step{func() { b.must(t, "backend enable web 10.0.1.10") }}
		}, `draining backend 10.0.1.10 of pool web; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent
`, 4, "backend 10.0.1.10 no longer drains: somebody set it to enabled"},
		"no daemon for a while": {"backend drain web 10.0.1.10 --wait", func(b *bench) []step {
			fail := func(err error) step { return func() { b.Fail(err) } }
			return []step{fail(context.Canceled), nothing, fail(nil), b.finish(t, "10.0.1.10")}
		}, `draining backend 10.0.1.10 of pool web; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent
drained 10.0.1.10: disabled
`, 0, ""},
		"a daemon that fails": {"backend drain web 10.0.1.10 --wait", func(b *bench) []step {
			return []step{func() { b.Fail(errors.New("map is gone")) }}
		}, `draining backend 10.0.1.10 of pool web; revision 2
draining 10.0.1.10: 42 flows left, and those that are silent
`, 1, "map is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(t, add)
			b.left(42, true)()
			b.play(t, row.steps(b)...)
			out, errs, exit := b.run(strings.Fields(row.line)...)
			if out != row.want || exit != row.exit || !strings.Contains(errs, row.errs) || (row.errs == "") != (errs == "") {
				t.Errorf("exit %d, %s\n%s\nwant exit %d, %s\n%s", exit, errs, out, row.exit, row.errs, row.want)
			}
		})
	}
}

// What programs read has no progress in it.
func TestWaitForPrograms(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11")
	b.play(t, b.finish(t, "10.0.1.10"))
	out, errs, exit := b.run(strings.Fields("backend drain web 10.0.1.10 --wait -o json")...)
	if exit != 0 || !strings.HasPrefix(out, "{") || !strings.HasSuffix(out, "}\n") || errs != "draining 10.0.1.10: no flows left\ndrained 10.0.1.10: disabled\n" {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
}

// Ctrl-C ends the waiting, and draining goes on.
func TestWaitInterrupted(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11")
	ctx, interrupt := context.WithCancel(t.Context())
	b.after = func(time.Duration) { interrupt() }
	_, errs, exit := b.runUntil(ctx, strings.Fields("backend drain web 10.0.1.10 --wait")...)
	if exit != 1 || errs != "steelyard: stopped waiting; still draining: 10.0.1.10\n" {
		t.Errorf("exit %d, %q", exit, errs)
	}
	if state, _ := b.Desired(); state.Pools[0].Backends[0].State != model.Draining {
		t.Errorf("backend is %+v", state.Pools[0].Backends[0])
	}
}

func TestDaemonGoneWhileWaiting(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11")
	looks := 0
	b.after = func(time.Duration) {
		b.Fail(context.Canceled)
		if looks++; looks > 1000 {
			t.Fatal("it waits for ever")
		}
	}
	_, errs, exit := b.run(strings.Fields("backend drain web 10.0.1.10 --wait")...)
	if exit != 6 || !strings.Contains(errs, "waiting for draining to end: ") || looks < 10 {
		t.Errorf("exit %d after %d looks, %q", exit, looks, errs)
	}
}

func TestDetach(t *testing.T) {
	b := newBench(t)
	var got []cli.DetachOptions
	b.detach = func(_ context.Context, o cli.DetachOptions) error {
		got = append(got, o)
		return nil
	}
	if _, errs, exit := b.run("detach"); exit != 4 || !strings.Contains(errs, "a daemon is running on "+b.socket+"; stop it first") || got != nil {
		t.Errorf("with a daemon: exit %d, %s; %+v", exit, errs, got)
	}
	b.socket = filepath.Join(t.TempDir(), "api.sock")
	b.must(t, "detach")
	b.must(t, "detach --pin-path /sys/fs/bpf/other/")
	if want := []cli.DetachOptions{{PinPath: cli.DefaultPinPath}, {PinPath: "/sys/fs/bpf/other"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	b.detach = func(context.Context, cli.DetachOptions) error { return errors.New("eth1: not permitted") }
	if _, errs, exit := b.run("detach"); exit != 1 || errs != "steelyard: eth1: not permitted\n" {
		t.Errorf("exit %d, %s", exit, errs)
	}
}
