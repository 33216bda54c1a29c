// Package reconcile is the one loop that keeps the data plane true to what the
// operator asked for and to what health checks and the kernel's routes say.
//
// One goroutine owns desired state, health and what was applied. Everything else
// sends it messages or reads immutable snapshots.
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
)

// Plane is the data plane; [dataplane.Plane] is one.
type Plane interface {
	// Check reports whether Apply would find room, and changes nothing.
	Check(forwarding.State) error
	Apply(forwarding.State) error
	Counters() (dataplane.Counters, error)
	NAT() model.NATPorts
	Interfaces() []model.InterfaceStatus
	Maps() []model.MapUse

	// The flow table: its clock, sweeps over it, and what they found.
	Clock() flux.Tick
	SetClock(flux.Tick)
	NeedsSweep() bool
	Sweep(entries int) (done bool, err error)
	Flows() dataplane.Flows
	// Rooms are those of backends with a limit of connections, as of the last sweep.
	Rooms() []dataplane.Room
}

// Checker probes backends; [health.Checker] is one.
type Checker interface {
	Set([]health.Target)
	Snapshot() *health.Snapshot
	Changed() <-chan struct{}
}

// Resolver follows next hops; [neighbor.Resolver] is one.
type Resolver interface {
	Set([]netip.Addr)
	Table() neighbor.Table
	Changed() <-chan struct{}
}

// Store keeps desired state; [store.Store] is one.
type Store interface {
	Load() (model.State, uint64, error)
	Save(expect uint64, next model.State, note string) (uint64, error)
}

// Options assemble a [Loop].
type Options struct {
	Plane    Plane
	Checker  Checker
	Resolver Resolver
	Store    Store
	Log      *slog.Logger
	// Version of the program, and the outer source addresses that the operator
	// prefers to those of the routes; invalid where there is no preference.
	Version              string
	OuterIPv4, OuterIPv6 netip.Addr
	// NATIPv4 and NATIPv6 hold the source addresses of fullnat, nobody else's; invalid:
	// it cannot reach backends of that family.
	NATIPv4, NATIPv6 netip.Prefix
	// MTU bounds that of every path, in bytes; 0: what the routes say.
	MTU                     int
	RetryFirst, RetryAtMost time.Duration
	// SweepShare is how much of one core sweeping the flow table may take, in percent.
	SweepShare int
}

// The pauses before an apply that failed is tried again, doubled each time.
const (
	DefaultRetryFirst  = 100 * time.Millisecond
	DefaultRetryAtMost = 10 * time.Second
)

// Loop is the reconcile loop.
type Loop struct {
	o        Options
	requests chan func()
	snapshot atomic.Pointer[desired]

	// What follows belongs to the goroutine of Run.
	desired   desired
	forwarded forwarding.State
	applied   uint64
	failure   error
	started   time.Time
	retry     *time.Timer
	pause     time.Duration
	// exhausted counts packets for which fullnat had no port, by the last sweep, and
	// exhausting says that there were some since the one before.
	exhausted  uint64
	exhausting bool
	// health is that of each backend of desired state, in its order, as it was last logged.
	health []model.Health
	// paths are those of hops.
	hops  neighbor.Table
	paths forwarding.Paths
	// full are the backends that have as many connections as they may have.
	full map[dataplane.BackendKey]bool
	// first is the flow table's time when the loop started, sweepAt when the
	// next sweep is due.
	first   flux.Tick
	sweepAt time.Time
	// draining are the backends that drain, with the number of sweeps there had been
	// when that was first seen.
	draining map[dataplane.BackendKey]uint64
	// drainFailure is why draining could not be ended, sweepFailure why the flow table
	// could not be swept; nil if they could.
	drainFailure, sweepFailure error
}

// desired is a revision of desired state, never changed once published.
type desired struct {
	state    model.State
	revision uint64
}

// New reads the store and computes nothing yet.
func New(o Options) (*Loop, error) {
	if o.RetryFirst == 0 {
		o.RetryFirst = DefaultRetryFirst
	}
	if o.RetryAtMost == 0 {
		o.RetryAtMost = DefaultRetryAtMost
	}
	if o.SweepShare == 0 {
		o.SweepShare = DefaultSweepShare
	}
	state, revision, err := o.Store.Load()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		o:        o,
		requests: make(chan func()),
		started:  time.Now(),
		full:     map[dataplane.BackendKey]bool{},
		pause:    o.RetryFirst,
	}
	if err := l.separate(state); err != nil {
		return nil, err
	}
	l.adopt(desired{state, revision})
	return l, nil
}

// adopt makes a revision the desired one and tells what depends on it alone.
func (l *Loop) adopt(d desired) {
	l.health = carryHealth(l.desired.state, l.health, d.state)
	l.desired = d
	l.snapshot.Store(&d)
	l.o.Checker.Set(health.Targets(d.state))
	l.o.Resolver.Set(addresses(d.state))
}

func addresses(s model.State) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, p := range s.Pools {
		for _, b := range p.Backends {
			if !seen[b.Address] {
				seen[b.Address] = true
				out = append(out, b.Address)
			}
		}
	}
	return out
}

func (l *Loop) String() string { return "reconcile" }

// Run reconciles until ctx ends. It calls ready once the data plane has been
// given the stored state for the first time, and ends with its error, if any.
func (l *Loop) Run(ctx context.Context, ready func() error) error {
	l.retry = time.NewTimer(time.Hour)
	defer l.retry.Stop()
	clock := time.NewTicker(dataplane.TickLength)
	defer clock.Stop()
	l.first = l.o.Plane.Clock()
	l.reconcile()
	if err := ready(); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case request := <-l.requests:
			request()
		case <-l.o.Checker.Changed():
			l.reconcile()
		case <-l.o.Resolver.Changed():
			l.reconcile()
		case <-l.retry.C:
			l.reconcile()
		case now := <-clock.C:
			l.tick(now)
		}
	}
}

// reconcile brings the data plane to desired state and observed health, or
// notes why it cannot and tries again later. Packets meanwhile meet the last
// state that could be applied.
func (l *Loop) reconcile() {
	next, err := l.build(l.desired.state)
	if err == nil {
		err = l.o.Plane.Apply(next)
	}
	if err != nil {
		l.fail(err)
		return
	}
	l.forwarded, l.applied = next, l.desired.revision
	l.succeed()
}

func (l *Loop) fail(err error) {
	if l.failure == nil || l.failure.Error() != err.Error() {
		l.o.Log.Error("cannot apply the desired state; traffic continues on the last one that could be", "revision", l.desired.revision, "error", err)
	}
	l.failure = err
	l.retry.Reset(l.pause)
	l.pause = min(2*l.pause, l.o.RetryAtMost)
}

func (l *Loop) succeed() {
	if l.failure != nil {
		l.o.Log.Info("the desired state is applied again", "revision", l.desired.revision)
	}
	l.failure, l.pause = nil, l.o.RetryFirst
	l.retry.Stop()
	if next := l.forwarded.Next; !next.IsZero() {
		l.retry.Reset(time.Until(next))
	}
	l.logHealth()
}

// build folds desired state, health and next hops together.
func (l *Loop) build(state model.State) (forwarding.State, error) {
	l.resolve()
	inUse := l.inUse()
	health := healthOf(l.o.Checker.Snapshot(), inUse)
	// A backend may pass its first check before its next hop is known here. Its
	// packets would be dropped, so it waits while others can take them.
	reachable := func(p *model.Pool, id model.BackendID) bool {
		if inUse(p, id) {
			return true
		}
		_, resolved := l.paths[id.Address]
		return resolved
	}
	ready := func(p *model.Pool, id model.BackendID) bool {
		h, _ := health(p, id)
		return h == model.HealthUp && reachable(p, id)
	}
	someReady := map[string]bool{} // by pool, looked at once
	canWait := func(p *model.Pool) bool {
		some, known := someReady[p.Name]
		if !known {
			some = slices.ContainsFunc(p.Backends, func(b model.Backend) bool { return ready(p, b.BackendID) })
			someReady[p.Name] = some
		}
		return some
	}
	next, err := forwarding.Build(state, func(p *model.Pool, id model.BackendID) (model.Health, time.Time) {
		h, since := health(p, id)
		if h == model.HealthUp && !reachable(p, id) && canWait(p) {
			return model.HealthUnknown, since
		}
		return h, since
	}, l.isFull, time.Now(), l.forwarded)
	if err != nil {
		return forwarding.State{}, err
	}
	next.Paths = l.paths
	return next, nil
}

// healthOf is what the checks say. A backend in use whose health is unknown stays:
// a check was added that has not spoken yet, and were that no reason to stay, adding
// one would take a pool out of service.
func healthOf(snapshot *health.Snapshot, inUse func(*model.Pool, model.BackendID) bool) forwarding.Health {
	reader := snapshot.Reader()
	return func(p *model.Pool, id model.BackendID) (model.Health, time.Time) {
		h, since := reader.Backend(p, id)
		if h == model.HealthUnknown && inUse(p, id) {
			return model.HealthUp, time.Time{}
		}
		return h, since
	}
}

// inUse tells whether a backend takes new flows as of what was applied last. It is quickest
// when it is asked about one pool after the other.
func (l *Loop) inUse() func(*model.Pool, model.BackendID) bool {
	var pool *model.Pool
	var last *forwarding.Pool
	return func(p *model.Pool, id model.BackendID) bool {
		if p != pool {
			pool, last = p, l.forwarded.Pool(p.Name)
		}
		if last == nil {
			return false
		}
		i, found := slices.BinarySearchFunc(last.Backends, id, func(b forwarding.Backend, id model.BackendID) int { return b.ID.Compare(id) })
		return found && last.Backends[i].Takes
	}
}

// resolve makes paths of the next hops. The same hops have the same paths, which the data
// plane knows to be the same.
func (l *Loop) resolve() {
	hops := l.o.Resolver.Table()
	if l.paths != nil && hops.Same(l.hops) {
		return
	}
	paths := make(forwarding.Paths, len(hops))
	for addr, hop := range hops {
		if hop.Problem != "" {
			continue
		}
		outer := hop.SourceIP
		if addr.Is4() && l.o.OuterIPv4.IsValid() {
			outer = l.o.OuterIPv4
		} else if addr.Is6() && l.o.OuterIPv6.IsValid() {
			outer = l.o.OuterIPv6
		}
		mtu := hop.MTU
		if l.o.MTU > 0 {
			mtu = min(mtu, l.o.MTU)
		}
		paths[addr] = forwarding.Path{
			Link: hop.Link, VLAN: hop.VLAN, Source: hop.Source, Destination: hop.Destination,
			OnLink: hop.OnLink, Outer: outer, MTU: mtu,
		}
	}
	l.hops, l.paths = hops, paths
}

// logHealth reports what changed since it was last called.
func (l *Loop) logHealth() {
	snapshot := l.o.Checker.Snapshot()
	reader, logged := snapshot.Reader(), l.health
	for i := range l.desired.state.Pools {
		p := &l.desired.state.Pools[i]
		for j := range p.Backends {
			b, before := &p.Backends[j], logged[j]
			now, _ := reader.Backend(p, b.BackendID)
			if now != before {
				l.o.Log.Info("backend health changed", "pool", p.Name, "backend", b.String(), "from", before, "to", now, "reason", reason(snapshot, p, b.BackendID))
				logged[j] = now
			}
		}
		logged = logged[len(p.Backends):]
	}
}

// carryHealth gives the backends of another state the health that was logged of them; that
// of new ones is unknown.
func carryHealth(from model.State, health []model.Health, to model.State) []model.Health {
	known := make(map[dataplane.BackendKey]model.Health, len(health))
	for _, p := range from.Pools {
		for i, b := range p.Backends {
			known[dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}] = health[i]
		}
		health = health[len(p.Backends):]
	}
	var carried []model.Health
	for _, p := range to.Pools {
		for _, b := range p.Backends {
			carried = append(carried, known[dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}])
		}
	}
	return carried
}

func reason(s *health.Snapshot, p *model.Pool, id model.BackendID) string {
	for _, c := range p.Checks {
		if status, ok := s.Check(health.Key{Pool: p.Name, Backend: id, Check: c.Name}); ok && status.Health == model.HealthDown {
			return fmt.Sprintf("check %s: %s", c.Name, status.Reason)
		}
	}
	return ""
}
