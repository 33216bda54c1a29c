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
	// sweepPause is the time from the start of one sweep to that of the next.
	sweepPause = time.Second
)

// tick moves the flow table's clock, sweeps for its share of the time, and ends
// what is drained.
func (l *Loop) tick(now time.Time) {
	l.o.Plane.SetClock(l.first + flux.Tick(now.Sub(l.started)/dataplane.TickLength))
	if now.Before(l.sweepAt) || !l.o.Plane.NeedsSweep() {
		l.endDrains(now)
		return
	}
	budget := dataplane.TickLength * time.Duration(l.o.SweepShare) / 100
	for start := time.Now(); time.Since(start) < budget; {
		done, err := l.o.Plane.Sweep(sweepStep)
		if err != nil {
			l.o.Log.Error("cannot sweep the flow table; slots stay in flux until it can be", "error", err)
		}
		if done || err != nil {
			l.sweepAt = now.Add(sweepPause)
			l.endDrains(now)
			return
		}
	}
}

// endDrains disables, or removes, the backends that have drained: those without
// flows that no slot names any more, and those whose deadline has come.
func (l *Loop) endDrains(now time.Time) {
	var flows *dataplane.Flows
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
			left := flows.Backends[dataplane.BackendKey{Pool: p.Name, ID: b.BackendID}]
			late := !b.Drain.Deadline.IsZero() && now.After(b.Drain.Deadline)
			if !late && (left.Live > 0 || left.Named || l.failure != nil) {
				continue
			}
			l.endDrain(p.Name, b, left.Live)
			return // the desired state is another one now; the rest waits for the next tick
		}
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
	if err != nil && (l.drainFailure == nil || err.Error() != l.drainFailure.Error()) {
		l.o.Log.Error("cannot end draining; it is tried again", "pool", pool, "backend", b.String(), "error", err)
	}
	l.drainFailure = err
}
