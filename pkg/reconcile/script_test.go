package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScripts runs the scenarios in testdata; testdata/README says how to read them.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := play(t, string(text)); err != nil {
				t.Errorf("%s:%v", file, err)
			}
		})
	}
}

// play runs a script in a bubble of virtual time, in which a step ends when
// nothing is left to be done.
func play(t *testing.T, text string) (failed error) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		defer func() { s.stop() }()
		for i, line := range strings.Split(text, "\n") {
			if failed = s.step(line); failed != nil {
				failed = fmt.Errorf("%d: %s: %w", i+1, line, failed)
				return
			}
		}
	})
	return failed
}

// scene is a loop and all that surrounds it.
type scene struct {
	plane    *fakePlane
	checker  *fakeChecker
	resolver *fakeResolver
	store    *fakeStore
	log      bytes.Buffer
	loop     *Loop
	stop     func()
	ready    bool
	// before is how things were before the last step that was no expectation.
	before picture
}

func newScene() *scene {
	s := &scene{store: &fakeStore{}, stop: func() {}}
	s.surround()
	return s
}

// surround gives the scene a plane, a checker and a resolver as they are after boot.
func (s *scene) surround() {
	s.plane, s.checker, s.resolver = newFakePlane(), newFakeChecker(), newFakeResolver()
}

// picture is what a step may change.
type picture struct {
	revision                               uint64
	desired                                model.State
	saves, attempts, applies, checks, hops int
	applied                                forwarding.State
}

// picture is taken in the goroutine of Run, if there is one: that orders all that
// a script did before it with all that the loop does later.
func (s *scene) picture() picture {
	var now picture
	take := func() {
		now = picture{
			saves: s.store.saves, attempts: s.plane.attempts, applies: s.plane.applies,
			checks: s.checker.sets, hops: s.resolver.sets, applied: s.plane.applied,
		}
	}
	if s.loop == nil {
		take()
		return now
	}
	if err := s.loop.call(context.Background(), take); err != nil {
		panic(err)
	}
	now.desired, now.revision = s.loop.Desired()
	return now
}

var fieldShape = regexp.MustCompile(`(?:[^\s"]|"[^"]*")+`)

func (s *scene) step(line string) error {
	line, _, _ = strings.Cut(line, "#")
	fields := fieldShape.FindAllString(line, -1)
	for i := range fields {
		fields[i] = strings.ReplaceAll(fields[i], `"`, "")
	}
	if len(fields) == 0 {
		return nil
	}
	if fields[0] == "expect" {
		return s.expect(fields[1:])
	}
	s.before = s.picture()
	if err := s.act(fields[0], fields[1:]); err != nil {
		return err
	}
	synctest.Wait()
	return s.consistent()
}

// consistent checks what holds after every step.
func (s *scene) consistent() error {
	if s.loop == nil {
		return nil
	}
	state, revision := s.loop.Desired()
	if revision != s.store.revision || len(state.VIPs)+len(state.Pools) > 0 && !reflect.DeepEqual(state, s.store.state) {
		return fmt.Errorf("desired is revision %d, %+v; stored is %d, %+v", revision, state, s.store.revision, s.store.state)
	}
	for _, p := range s.plane.applied.Pools {
		if (len(p.Members) > 0) != (p.Table != nil) {
			return fmt.Errorf("pool %q has %d members, and has a table: %t", p.Name, len(p.Members), p.Table != nil)
		}
		if p.Table != nil && len(p.Table.Owners()) != int(p.Slots) {
			return fmt.Errorf("pool %q has a table of %d slots of %d", p.Name, len(p.Table.Owners()), p.Slots)
		}
	}
	return nil
}

func (s *scene) act(verb string, args []string) error {
	switch verb {
	case "start":
		return s.start(args)
	case "restart":
		s.stop()
		s.surround()
		s.loop = nil
		s.before = s.picture()
		return s.start(args)
	case "change":
		return s.change(args)
	case "refuse":
		return s.refuse(args[0], args[1:])
	case "health":
		return s.health(args)
	case "hop":
		return s.hop(args[0], args[1:])
	case "flows":
		return s.flows(args)
	case "room":
		return s.room(args)
	case "fail":
		return s.fault(args[0], errors.New(args[1]))
	case "heal":
		return s.fault(args[0], nil)
	case "after":
		pause, err := time.ParseDuration(args[0])
		time.Sleep(pause) // of the bubble: no time passes
		return err
	}
	return fmt.Errorf("unknown step %q", verb)
}

func (s *scene) start(args []string) error {
	o := Options{
		Plane: s.plane, Checker: s.checker, Resolver: s.resolver, Store: s.store, Version: "1.2.3",
		Log: slog.New(slog.NewTextHandler(&s.log, nil)),
	}
	for key, value := range settings(args) {
		var err error
		switch key {
		case "next-hops":
			s.resolver.silent = value == "unknown"
		case "mtu":
			o.MTU, err = strconv.Atoi(value)
		case "outer4":
			o.OuterIPv4, err = netip.ParseAddr(value)
		case "outer6":
			o.OuterIPv6, err = netip.ParseAddr(value)
		case "nat4":
			o.NATIPv4, err = netip.ParsePrefix(value)
		case "nat6":
			o.NATIPv6, err = netip.ParsePrefix(value)
		default:
			err = fmt.Errorf("unknown setting %q", key)
		}
		if err != nil {
			return err
		}
	}
	var err error
	if s.loop, err = New(o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.loop.Run(ctx, func() error { s.ready = true; return nil }) }()
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
		s.stop = func() {}
	}
	return nil
}

// change runs operations, separated by semicolons, as one change; "@7" before
// them is the revision that they expect.
func (s *scene) change(args []string) error {
	var expect uint64
	if revision, found := strings.CutPrefix(args[0], "@"); found {
		var err error
		if expect, err = strconv.ParseUint(revision, 10, 64); err != nil {
			return err
		}
		args = args[1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	revision, err := s.loop.Change(ctx, expect, strings.Join(args, " "), func(state *model.State) error {
		return operate(state, args)
	})
	if err != nil {
		return err
	}
	if revision != s.store.revision {
		return fmt.Errorf("Change says revision %d, stored is %d", revision, s.store.revision)
	}
	return nil
}

// refuse is a change that must fail with a reason and change nothing whatever.
func (s *scene) refuse(reason string, args []string) error {
	err := s.change(args)
	switch {
	case err == nil:
		return errors.New("this was not refused")
	case !strings.Contains(err.Error(), reason):
		return fmt.Errorf("this was refused for another reason: %w", err)
	}
	synctest.Wait()
	if now := s.picture(); !reflect.DeepEqual(now, s.before) {
		return fmt.Errorf("this was refused and yet changed something: %+v became %+v", s.before, now)
	}
	return nil
}

func (s *scene) health(args []string) error {
	id, err := model.ParseBackendID(args[1])
	if err != nil {
		return err
	}
	now, known := map[string]model.Health{"up": model.HealthUp, "down": model.HealthDown}[args[2]]
	if !known {
		return fmt.Errorf("%q is no result", args[2])
	}
	return s.checker.report(args[0], id, strings.Join(args[3:], ""), now, "first probe said "+args[2])
}

// hop resolves a next hop, or says what is wrong with it.
// flows reads: flows POOL BACKEND LIVE [named].
func (s *scene) flows(args []string) error {
	id, err := model.ParseBackendID(args[1])
	if err != nil {
		return err
	}
	live, err := strconv.ParseUint(args[2], 10, 64)
	s.plane.flows.Backends[dataplane.BackendKey{Pool: args[0], ID: id}] = dataplane.BackendFlows{Live: live, Named: len(args) > 3}
	return err
}

// room reads: room POOL BACKEND COUNTED LIMIT [full].
func (s *scene) room(args []string) error {
	id, err := model.ParseBackendID(args[1])
	if err != nil {
		return err
	}
	counted, errCounted := strconv.ParseUint(args[2], 10, 64)
	limit, errLimit := strconv.ParseUint(args[3], 10, 64)
	key := dataplane.BackendKey{Pool: args[0], ID: id}
	s.plane.rooms = append(slices.DeleteFunc(s.plane.rooms, func(r dataplane.Room) bool { return r.BackendKey == key }),
		dataplane.Room{BackendKey: key, Limit: limit, Counted: counted, Full: len(args) > 4})
	return errors.Join(errCounted, errLimit)
}

// hopTo is the next hop of an address that is resolved.
func hopTo(addr netip.Addr) neighbor.Hop {
	hop := neighbor.Hop{
		Link: 7, Interface: "eth0", Source: [6]byte{2, 0, 0, 0, 0, 1}, Destination: [6]byte{2, 0, 0, 0, 0, 2},
		OnLink: true, SourceIP: netip.MustParseAddr("10.0.1.1"), MTU: 1500,
	}
	if addr.Is6() {
		hop.SourceIP = netip.MustParseAddr("2001:db8::1")
	}
	return hop
}

func (s *scene) hop(address string, args []string) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	hop := hopTo(addr)
	switch args[0] {
	case "resolved":
	case "moved":
		hop.Destination[5] = 9
	case "gone":
		hop.Problem = "no route to it"
	case "routed":
		hop.OnLink = false
	case "sourceless":
		hop.SourceIP = netip.Addr{}
	default:
		return fmt.Errorf("%q is nothing that befalls next hops", args[0])
	}
	s.resolver.report(addr, hop)
	return nil
}

func (s *scene) fault(part string, err error) error {
	where, known := map[string]*error{
		"check": &s.plane.checkFault, "apply": &s.plane.applyFault, "counters": &s.plane.countersFault, "store": &s.store.fault,
	}[part]
	if !known {
		return fmt.Errorf("no part %q can fail", part)
	}
	*where = err
	return nil
}

// settings reads "key=value" fields.
func settings(args []string) map[string]string {
	out := map[string]string{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		out[key] = value
	}
	return out
}

// operate changes a state as the operations say.
func operate(state *model.State, args []string) error {
	for len(args) > 0 {
		end := slices.Index(args, ";")
		if end < 0 {
			end = len(args)
		}
		o := operation{state, args[:end]}
		if err := o.run(); err != nil {
			return err
		}
		args = args[min(end+1, len(args)):]
	}
	return nil
}
