package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// target checks a TCP port.
func target(to netip.AddrPort) health.Target {
	id := model.BackendID{Address: to.Addr(), Port: to.Port()}
	check := model.Check{Type: model.CheckTCP, Interval: model.MinCheckInterval, Timeout: 20 * time.Second}.WithDefaults()
	return health.Target{Key: health.Key{Pool: "web", Backend: id, Check: check.Name}, Check: check}
}

// listening returns an endpoint that accepts connections, refusing one that does not.
func listening(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func refusing(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// probed returns a checker that has probed all targets and stands still again.
func probed(t *testing.T, targets []health.Target) *health.Checker {
	t.Helper()
	c := health.New()
	c.Set(targets)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	deadline := time.After(20 * time.Second)
	for {
		unknown := 0
		for _, status := range c.Snapshot().All() {
			if status.Health == model.HealthUnknown {
				unknown++
			}
		}
		if unknown == 0 {
			return c
		}
		select {
		case <-c.Changed():
		case <-deadline:
			t.Fatalf("%d targets were never probed", unknown)
		}
	}
}

// What the checks of one run found is what the next begins with.
func TestHealthSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	up, down, unknown := target(listening(t)), target(refusing(t)), target(netip.MustParseAddrPort("192.0.2.1:80"))
	before := probed(t, []health.Target{up, down})
	before.Set([]health.Target{up, down, unknown})

	s := open(t, path)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := keepHealth(ended, before, s, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	restored, fresh := health.New(), health.New()
	if err := restoreHealth(open(t, path), restored); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*health.Checker{restored, fresh} {
		c.Set([]health.Target{unknown, down, up})
	}
	for key, want := range before.Snapshot().All() {
		got, found := restored.Snapshot().Check(key)
		if !found || got.Health != want.Health || got.Result != want.Result || got.Detail != want.Detail || got.Reason != want.Reason {
			t.Errorf("%v is %+v, want %+v", key, got, want)
		}
		if want.Health != model.HealthUnknown && !got.Since.Equal(want.Since) {
			t.Errorf("%v is so since %v, want %v", key, got.Since, want.Since)
		}
		if control, _ := fresh.Snapshot().Check(key); control.Health != model.HealthUnknown {
			t.Errorf("control: without the store %v is %v", key, control.Health)
		}
	}
	for key, want := range map[health.Key]string{up.Key: "up", down.Key: "down", unknown.Key: "unknown"} {
		if got, _ := restored.Snapshot().Check(key); got.Health.String() != want {
			t.Errorf("%v is %v, want %s", key, got.Health, want)
		}
	}
}

// known returns a checker that has a result without having probed.
func known(now model.Health) (*health.Checker, health.Key) {
	c, only := health.New(), target(netip.MustParseAddrPort("192.0.2.1:80"))
	c.Set([]health.Target{only})
	c.Restore(map[health.Key]model.CheckStatus{only.Key: {Health: now, Since: time.Now(), Result: "L4OK"}})
	return c, only.Key
}

// Health goes to disk while the daemon runs, not only when it ends in good order.
func TestHealthIsKeptMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path)
		c, key := known(model.HealthUp)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- keepHealth(ctx, c, s, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		if all, err := s.LoadHealth(); err != nil || len(all) != 0 {
			t.Errorf("control: there is %v, %v before the time has come", all, err)
		}
		time.Sleep(keepInterval) // of the bubble: no time passes
		synctest.Wait()
		all, err := s.LoadHealth()
		if err != nil || len(all) != 1 || all[0].Backend != key.Backend || all[0].Health != model.HealthUp {
			t.Errorf("got %+v, %v", all, err)
		}
		c.Set(nil) // what is checked no longer is forgotten
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if all, err := s.LoadHealth(); err != nil || len(all) != 0 {
			t.Errorf("what was removed is kept: %v, %v", all, err)
		}
	})
}

// A store that cannot be written is reported once, ends nothing, and is told of
// at the end.
func TestHealthCannotBeKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		c, _ := known(model.HealthDown)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- keepHealth(ctx, c, s, slog.New(slog.NewTextHandler(&log, nil))) }()
		time.Sleep(10 * keepInterval)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot keep the last known health"); n != 1 {
			t.Errorf("this was logged %d times, want once:\n%s", n, &log)
		}
		cancel()
		if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("the end was reported as %v", err)
		}
		if err := restoreHealth(s, health.New()); err == nil {
			t.Error("health was restored from a store that is closed")
		}
	})
}
