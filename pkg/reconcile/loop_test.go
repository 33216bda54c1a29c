package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Scripts can fail: what they expect is looked at.
func TestScriptsFail(t *testing.T) {
	const begin = "start\nchange add-pool web checks=tcp ; add-backend web 10.0.1.10 ; add-vip www 192.0.2.1:80 web\nhealth web 10.0.1.10 up\n"
	if err := play(t, begin+"expect slots web 10.0.1.10=100%"); err != nil {
		t.Fatalf("control: %v", err)
	}
	for line, want := range map[string]string{
		"expect slots web none":                     `got "10.0.1.10=100%", want "none"`,
		"expect slots mail none":                    `got "no pool", want "none"`,
		"expect no-change":                          "became",
		"expect tables-kept":                        `pool "web" has another table`,
		"expect paths none":                         `got "10.0.1.10"`,
		"expect attempts 0":                         `got "1"`,
		"expect status revision=2":                  `revision is "1", want "2"`,
		"expect status error=full":                  `error is "", want "full"`,
		"expect status speed=2":                     `unknown key "speed"`,
		"expect vip www available=false":            `available is "true"`,
		"expect backend web 10.0.1.10 health=down":  `health is "up"`,
		"expect logged 0 \"desired state changed\"": `got "1"`,
		"expect miracles":                           "unknown expectation",
		"refuse \"no\" add-backend web 10.0.1.20":   "this was not refused",
		"refuse \"no\" add-backend web 127.0.0.1":   "another reason",
		"change add-backend web 127.0.0.1":          "loopback",
		"change set-pool web checks=tcp":            "taken by another check",
		"health web 10.0.1.99 up":                   "is not checked",
	} {
		if err := play(t, begin+line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", line, err, want)
		}
	}
}

// inBubble runs a test around a loop that runs in virtual time.
func inBubble(t *testing.T, script string, test func(t *testing.T, s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		defer func() { s.stop() }()
		for line := range strings.SplitSeq(script, "\n") {
			if err := s.step(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		test(t, s)
	})
}

const oneBackend = "start\nchange add-pool web ; add-backend web 10.0.1.10 ; add-vip www 192.0.2.1:80 web"

// Changes that come at once are made one after the other, and none is lost;
// those made for a revision that is no more are told so.
func TestConcurrentChanges(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		const changes = 50
		state, base := s.loop.Desired()
		revisions, refusals := make([]uint64, changes), make([]error, changes)
		var all sync.WaitGroup
		for i := range changes {
			all.Go(func() {
				revision, err := s.loop.Change(t.Context(), 0, "", func(state *model.State) error {
					return operate(state, strings.Fields(fmt.Sprintf("add-backend web 10.0.2.%d", i)))
				})
				if err != nil {
					t.Error(err)
				}
				revisions[i] = revision
			})
			all.Go(func() {
				_, refusals[i] = s.loop.Change(t.Context(), base, "", func(state *model.State) error {
					return operate(state, strings.Fields(fmt.Sprintf("add-backend web 10.0.3.%d", i)))
				})
			})
		}
		all.Wait()
		seen, made := map[uint64]bool{}, 0
		for i := range changes {
			seen[revisions[i]] = true
			var stale *model.RevisionError
			switch {
			case refusals[i] == nil:
				made++
			case !errors.As(refusals[i], &stale) || stale.Expected != base || stale.Actual <= base:
				t.Errorf("refused with %v", refusals[i])
			}
		}
		after, revision := s.loop.Desired()
		if len(seen) != changes || made > 1 || revision != base+changes+uint64(made) {
			t.Errorf("%d changes got %d revisions, %d of %d that expected revision %d were made, and now it is %d", changes, len(seen), made, changes, base, revision)
		}
		if got, want := len(after.Pools[0].Backends), len(state.Pools[0].Backends)+changes+made; got != want {
			t.Errorf("there are %d backends, want %d", got, want)
		}
		if err := s.consistent(); err != nil {
			t.Error(err)
		}
	})
}

// What Desired returned stays as it was, whatever is changed afterwards.
func TestDesiredIsASnapshot(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		snapshot, revision := s.loop.Desired()
		before := snapshot.Clone()
		spoil := func(state *model.State) {
			state.VIPs[0].Endpoints[0].Address = netip.MustParseAddr("192.0.2.77")
			state.Pools[0].OnAllDown = model.OnAllDownReset
			state.Pools[0].Backends[0].Weight = 77
		}
		for _, give := range []error{errors.New("never mind"), nil} {
			_, err := s.loop.Change(t.Context(), 0, "", func(state *model.State) error {
				spoil(state)
				return give
			})
			if !errors.Is(err, give) {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(snapshot, before) {
				t.Fatalf("the snapshot became %+v", snapshot)
			}
		}
		if now, at := s.loop.Desired(); at != revision+1 || now.Pools[0].Backends[0].Weight != 77 {
			t.Errorf("the change was not made: revision %d, %+v", at, now)
		}
		spoil(&snapshot)
		if reflect.DeepEqual(snapshot, before) {
			t.Error("control: a change in place did not show either")
		}
	})
}

// A call whose context ends before the loop takes it does nothing.
func TestContextEndsFirst(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		never := func(*model.State) error {
			t.Error("the change was made nevertheless")
			return nil
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 50 { // the loop is ready to take it
			if _, err := s.loop.Change(ended, 0, "", never); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			if _, err := s.loop.Status(ended); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
		}
		s.stop() // and now nobody is there to take it
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.loop.Change(soon, 0, "", never); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A change that the loop has taken is finished, and its outcome told, also when
// nobody has the patience to wait for it.
func TestContextEndsLater(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		revision, err := s.loop.Change(ctx, 0, "", func(state *model.State) error {
			cancel()
			return operate(state, strings.Fields("add-backend web 10.0.1.20"))
		})
		if err != nil || revision != 2 {
			t.Errorf("got revision %d, %v", revision, err)
		}
	})
}

func TestStatus(t *testing.T) {
	const script = `start
flows web 10.0.1.20 9 named
change add-pool web checks=tcp on-all-down=reset table=251 ; add-backend web 10.0.1.10 ; add-backend web 10.0.1.20 weight=3 state=draining ; add-vip www 192.0.2.1:80 web
after 1m
hop 10.0.1.10 resolved
hop 10.0.1.20 gone
health web 10.0.1.10 up
after 1m
health web 10.0.1.20 down`
	inBubble(t, script, func(t *testing.T, s *scene) {
		now := time.Now()
		first, second := model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, model.BackendID{Address: netip.MustParseAddr("10.0.1.20")}
		s.plane.counters = dataplane.Counters{
			VIPs:     map[string]model.Counters{"www": {Packets: 1, Bytes: 2, Connections: 3}},
			Backends: map[dataplane.BackendKey]model.Counters{{Pool: "web", ID: first}: {Packets: 4, Bytes: 5, Connections: 6}},
			Reasons:  []model.Reason{{Name: "not_ours", Packets: 7}}, Fragments: model.FragmentTable{Remembered: 8, Evicted: 9},
		}
		got, err := s.loop.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		state, _ := s.loop.Desired()
		want := model.Status{
			Version: "1.2.3", Started: now.Add(-2 * time.Minute), Revision: 1, Applied: 1,
			Interfaces: []model.InterfaceStatus{{Name: "eth0", Mode: "generic", Warning: "slow"}},
			VIPs:       []model.VIPStatus{{VIP: state.VIPs[0], Available: true, Counters: model.Counters{Packets: 1, Bytes: 2, Connections: 3}}},
			Pools: []model.PoolStatus{{
				Name: "web", TableSize: 251, OnAllDown: model.OnAllDownReset,
				Backends: []model.BackendStatus{{
					Backend: model.Backend{BackendID: first, Weight: 1, State: model.Enabled},
					Health:  model.HealthUp, Since: now.Add(-time.Minute), Slots: 251, KeepsFlows: true,
					Checks: []model.CheckStatus{{
						Name: "tcp", Health: model.HealthUp, Since: now.Add(-time.Minute), Checked: now.Add(-time.Minute), Reason: "first probe said up",
					}},
					NextHop:  model.NextHop{Interface: "eth0", MAC: "02:00:00:00:00:02"},
					Counters: model.Counters{Packets: 4, Bytes: 5, Connections: 6},
				}, {
					Backend: model.Backend{BackendID: second, Weight: 3, State: model.Draining},
					Health:  model.HealthDown, Since: now, Flows: 9, Named: true,
					Checks:  []model.CheckStatus{{Name: "tcp", Health: model.HealthDown, Since: now, Checked: now, Reason: "first probe said down"}},
					NextHop: model.NextHop{Interface: "eth0", Problem: "no route to it"},
				}},
			}},
			Reasons: []model.Reason{{Name: "not_ours", Packets: 7}}, Fragments: model.FragmentTable{Remembered: 8, Evicted: 9},
			Flows: model.FlowTable{Sweeps: 120},
			Maps:  []model.MapUse{{Name: "slots", Used: 1, Capacity: 2, Bytes: 8}},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}

// A loop that cannot read its store does not come into being.
func TestUnreadableStore(t *testing.T) {
	broken := errors.New("the store is damaged")
	s := newScene()
	s.store.fault = broken
	if err := s.start(nil); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if s.checker.sets+s.resolver.sets+s.plane.attempts != 0 {
		t.Error("something was set up nevertheless")
	}
}

// A configuration that takes the address of a VIP in the store is refused before
// anything is set up.
func TestVIPAmongNATSources(t *testing.T) {
	s := newScene()
	s.store.state = model.State{VIPs: []model.VIP{{Name: "www", Endpoints: []model.Endpoint{{Address: netip.MustParseAddr("10.0.1.97"), Ports: model.Port(80)}}}}}
	const want = `VIP "www", address: 10.0.1.97 is one of those that this node's configuration has under nat.source_ipv4, 10.0.1.96/28`
	if err := s.start([]string{"nat4=10.0.1.96/28"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	if s.checker.sets+s.resolver.sets+s.plane.attempts != 0 {
		t.Error("something was set up nevertheless")
	}
}

// A state that cannot be applied at the start is no reason not to be ready: the
// operator needs the daemon to put it right.
func TestReadyWithoutRoom(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		s.stop()
		s.surround()
		s.ready, s.loop = false, nil
		s.plane.applyFault = errors.New("no room")
		if err := s.step("start"); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`expect ready true`, `expect status revision=1 applied=0 error="no room"`, `expect vip www available=false`,
			`heal apply`, `after 100ms`, `expect status revision=1 applied=1 error=""`, `expect vip www available=true`,
		} {
			if err := s.step(line); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	})
}

// What ready returns ends the loop: the daemon could not attach.
func TestNotReady(t *testing.T) {
	inBubble(t, oneBackend, func(t *testing.T, s *scene) {
		s.stop()
		broken := errors.New("another program is attached")
		if err := s.loop.Run(t.Context(), func() error { return broken }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if s.loop.String() != "reconcile" {
			t.Errorf("the task is called %q", s.loop)
		}
	})
}
