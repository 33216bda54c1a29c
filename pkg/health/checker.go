package health

import (
	"context"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	// maxConcurrent is how many probes run at once at most, by default.
	maxConcurrent = 8192
	// minConcurrent is allowed even where descriptors are scarce.
	minConcurrent = 16
	// idleWait is how long the scheduler sleeps when nothing is due.
	idleWait = time.Hour
)

// Checker runs checks. Its methods may be called from any goroutine, before,
// during and after [Checker.Run]; what Set and Restore did shows in the next
// snapshot at once.
type Checker struct {
	prober  prober
	limit   int
	wake    chan struct{}
	changed chan struct{}
	running sync.Mutex

	// mu guards everything below. The scheduler holds it for each of its
	// steps, never while it waits; probes in flight touch none of it.
	mu       sync.Mutex
	targets  []*target
	keys     []Key
	index    map[Key]int
	queue    queue
	inFlight int
	restored map[Key]model.CheckStatus
	// snapshot is the current one, nil when it is out of date.
	snapshot *Snapshot
}

// Option changes how a [Checker] works.
type Option func(*Checker)

// WithRoots replaces the system's certificate authorities, for https checks
// that name a host.
func WithRoots(roots *x509.CertPool) Option {
	return func(c *Checker) { c.prober.roots = roots }
}

// WithLimit bounds how many probes run at once; further ones start late. The
// default is 8192, or half of the open files that the process may have if that
// is less: a probe that fails for want of a descriptor tells nothing.
func WithLimit(n int) Option {
	return func(c *Checker) { c.limit = max(1, n) }
}

// New returns a checker without targets. It does nothing before [Checker.Run].
func New(opts ...Option) *Checker {
	c := &Checker{
		limit:   concurrency(),
		wake:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
	}
	for _, opt := range opts {
		opt(c)
	}
	return c
}

func concurrency() int {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return minConcurrent
	}
	return int(max(minConcurrent, min(files.Cur/2, maxConcurrent)))
}

// Set makes targets the whole set of what is checked. Targets that stay keep
// their state and schedule. One whose check changed keeps its health; if the
// probe itself asks something new, a probe in flight is called off, the next
// starts at once and counting starts over. Removed targets are forgotten. A
// key that occurs twice counts once.
func (c *Checker) Set(targets []Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, started := time.Now(), 0
	kept := make([]*target, 0, len(targets))
	keys := make([]Key, 0, len(targets))
	index := make(map[Key]int, len(targets))
	for _, want := range targets {
		if _, twice := index[want.Key]; twice {
			continue
		}
		want.Check = want.Check.WithDefaults()
		wait := stagger(started, want.Check.Interval)
		i, known := c.index[want.Key]
		var t *target
		if known {
			t = c.targets[i]
			if c.adjust(t, want, now, wait) {
				started++
			}
		} else {
			t = c.add(want, now, wait)
			started++
		}
		index[want.Key] = len(kept)
		kept, keys = append(kept, t), append(keys, want.Key)
	}
	for _, t := range c.targets {
		if _, stays := index[t.Key]; !stays {
			c.forget(t)
		}
	}
	c.targets, c.keys, c.index = kept, keys, index
	c.restored, c.snapshot = nil, nil
	signal(c.wake)
}

// add takes up a new target, due after wait. The caller holds mu.
func (c *Checker) add(want Target, now time.Time, wait time.Duration) *target {
	t := newTarget(want, now)
	if last, ok := c.restored[want.Key]; ok {
		t.restore(last, now)
	}
	t.due = now.Add(wait)
	c.queue.insert(t)
	return t
}

// adjust gives a target the settings of want and reports whether it is to be
// probed at once for it. The caller holds mu.
func (c *Checker) adjust(t *target, want Target, now time.Time, wait time.Duration) bool {
	if t.Check == want.Check {
		return false
	}
	anew := question(t.Check) != question(want.Check)
	t.Target = want
	switch {
	case anew:
		t.streak = 0
		t.due = now.Add(wait)
		if t.cancel != nil {
			t.discard = true
			t.cancel()
		}
	case !t.started.IsZero():
		t.due = t.started.Add(jittered(want.Check.Interval, want.Check.Jitter, rand.Float64()))
	}
	if t.place != absent {
		c.queue.fix(t)
	}
	return anew
}

// forget stops a target. The caller holds mu.
func (c *Checker) forget(t *target) {
	if t.place != absent {
		c.queue.remove(t)
	}
	if t.cancel != nil {
		t.discard = true
		t.cancel()
	}
}

// Restore gives the last known results of an earlier run to start from. They
// apply to targets whose health is unknown and to those that the next Set adds.
// One younger than fall intervals counts as if there had been no pause; an older
// one counts until the first probe, which then decides alone.
func (c *Checker) Restore(last map[Key]model.CheckStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, applied := time.Now(), false
	c.restored = make(map[Key]model.CheckStatus, len(last))
	for k, status := range last {
		if status.Health == model.HealthUnknown {
			continue
		}
		i, known := c.index[k]
		if !known {
			c.restored[k] = status
			continue
		}
		if t := c.targets[i]; t.status.Health == model.HealthUnknown {
			t.restore(status, now)
			applied = true
		}
	}
	if applied {
		c.snapshot = nil
		signal(c.changed)
	}
}

// Snapshot returns the current results. It costs a pointer per target when
// there are new ones, else nothing.
func (c *Checker) Snapshot() *Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot == nil {
		statuses := make([]*model.CheckStatus, len(c.targets))
		for i, t := range c.targets {
			statuses[i] = t.status
		}
		c.snapshot = &Snapshot{keys: c.keys, index: c.index, statuses: statuses}
	}
	return c.snapshot
}

// Changed is signalled after the health of some target changed; not by a new
// time or duration, nor by Set. It holds one signal: several changes may come
// as one.
func (c *Checker) Changed() <-chan struct{} { return c.changed }

func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// errRunning is returned by a second Run.
var errRunning = errors.New("health: the checker runs already; call Run once at a time")

// Run probes until ctx ends, then returns nil, with every probe called off and
// its socket closed. It may be called again afterwards and goes on with what is
// known. An error says that it runs already.
func (c *Checker) Run(ctx context.Context) error {
	if !c.running.TryLock() {
		return errRunning
	}
	defer c.running.Unlock()
	reports := make(chan report, c.limit)
	timer := time.NewTimer(idleWait)
	defer timer.Stop()
	var probes sync.WaitGroup
	for {
		timer.Reset(c.startDue(ctx, &probes, reports))
		select {
		case <-ctx.Done():
			probes.Wait()
			c.collect(reports)
			return nil
		case <-timer.C:
		case <-c.wake:
		case r := <-reports:
			c.collect(reports, r)
		}
	}
}
