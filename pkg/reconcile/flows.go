package reconcile

import (
	"fmt"
	"slices"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// DefaultSweepShare is how much of one core sweeping may take unless it is said, in percent.
const DefaultSweepShare = 5

const (
	// sweepStep is how many entries are looked at between two looks at the clock.
	sweepStep = 1 << 14
	// sweepPause is the time from one sweep to the next while no backend has a limit of
	// connections.
	sweepPause = time.Second
)

// tick moves the flow table's clock, sweeps for its share of the time, and ends
// what is drained.
func (l *Loop) tick(now time.Time) {
	l.o.Plane.SetClock(l.first + flux.Tick(now.Sub(l.started)/dataplane.TickLength))
	if now.Before(l.sweepAt) || !l.o.Plane.NeedsSweep() && len(l.draining) == 0 {
		l.endDrains(now)
		return
	}
	budget := dataplane.TickLength * time.Duration(l.o.SweepShare) / 100
	for start := time.Now(); time.Since(start) < budget; {
		done, err := l.o.Plane.Sweep(sweepStep)
		if err != nil {
			err = fmt.Errorf("sweep the flow table: %w", err)
		}
		l.remember(&l.sweepFailure, err)
		if done || err != nil {
			l.warnOfPorts()
			limited := l.limited()
			l.sweepAt = now.Add(pauseWith(limited))
			if err == nil {
				l.watchRooms(limited)
			}
			l.endDrains(now)
			return
		}
	}
}

// warnOfPorts logs that fullnat had no port for a connection, when it has come to that
// and when it has again after a while.
func (l *Loop) warnOfPorts() {
	exhausted := l.o.Plane.NAT().Exhausted
	if exhausted > l.exhausted && !l.exhausting {
		l.o.Log.Warn("fullnat has no port for new connections; add addresses to nat.source_ipv4 or nat.source_ipv6 in the configuration", "packets", exhausted-l.exhausted)
	}
	l.exhausting, l.exhausted = exhausted > l.exhausted, exhausted
}

// sweepsToKnow is how many sweeps must end before flows that there were at a moment
// are known: one may be under way.
const sweepsToKnow = 2

// endDrains disables, or removes, a backend that has drained: one without flows, by a
// sweep that began when it was draining, that no slot names any more; or one whose
// deadline has come.
func (l *Loop) endDrains(now time.Time) {
	var flows *dataplane.Flows
	draining := map[dataplane.BackendKey]uint64{}
	var end func()
	for i := range l.desired.state.Pools {
		p := &l.desired.state.Pools[i]
		for _, b := range p.Backends {
			if b.State != model.Draining {
				continue
			}
			if flows == nil {
				f := l.o.Plane.Flows()
				flows = &f
			}
			key := dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}
			since, known := l.draining[key]
			if !known {
				since = flows.Table.Sweeps
			}
			draining[key] = since
			left := flows.Backends[key]
			idle := left.Live == 0 && !left.Named && flows.Table.Sweeps >= since+sweepsToKnow && l.failure == nil
			late := !b.Drain.Deadline.IsZero() && now.After(b.Drain.Deadline)
			if idle || late {
				end = func() { l.endDrain(p.Name, b, left.Live) }
			}
		}
	}
	l.draining = draining
	if end != nil {
		end() // one at a time: the desired state is another one then
	}
}

func (l *Loop) endDrain(pool string, b model.Backend, left uint64) {
	note := fmt.Sprintf("backend %s of pool %s has drained", b, pool)
	if left > 0 {
		note = fmt.Sprintf("the deadline for draining backend %s of pool %s has come, with %d flows left", b, pool, left)
	}
	_, err := l.change(0, note, func(s *model.State) error {
		p, err := s.Pool(pool)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(p.Backends, func(other model.Backend) bool { return other.BackendID == b.BackendID })
		// A VIP needs a backend, be it a disabled one.
		if b.Drain.Remove && (len(p.Backends) > 1 || len(s.VIPsOf(pool)) == 0) {
			p.Backends = slices.Delete(p.Backends, i, i+1)
			return nil
		}
		p.Backends[i].State, p.Backends[i].Drain = model.Disabled, model.Drain{}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("cannot end draining of backend %s in pool %s: %w", b, pool, err)
	}
	l.remember(&l.drainFailure, err)
}

// remember keeps what went wrong in the background for Status, and logs it once. It
// is tried again at the next tick; packets are not affected.
func (l *Loop) remember(last *error, err error) {
	if err != nil && (*last == nil || err.Error() != (*last).Error()) {
		l.o.Log.Error("will be tried again", "error", err)
	}
	*last = err
}
