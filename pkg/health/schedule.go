package health

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// report brings a probe's outcome back to the scheduler.
type report struct {
	target *target
	outcome
	ended time.Time
	took  time.Duration
	// canceled probes were called off: their outcome says nothing.
	canceled bool
}

// startDue starts the probes that are due, as far as the limit allows, and
// returns how long to wait for the next one. A probe that ends wakes the
// scheduler anyway, so that at the limit there is nothing to wait for but that.
func (c *Checker) startDue(ctx context.Context, probes *sync.WaitGroup, reports chan<- report) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for len(c.queue) > 0 && c.inFlight < c.limit {
		t := c.queue[0]
		if wait := t.due.Sub(now); wait > 0 {
			return wait
		}
		c.queue.remove(t)
		c.inFlight++
		t.started = now
		// An overdue probe is not made up for: the next is an interval away.
		t.due = now.Add(jittered(t.Check.Interval, t.Check.Jitter, rand.Float64()))
		probe, cancel := context.WithTimeout(ctx, t.Check.Timeout)
		t.cancel = cancel
		// A copy, for Set may change the original meanwhile.
		asked := t.Target
		probes.Go(func() {
			defer cancel()
			began := time.Now()
			o := c.prober.probe(probe, asked)
			ended := time.Now()
			canceled := ctx.Err() != nil || probe.Err() == context.Canceled
			// There is room for as many reports as there are probes.
			reports <- report{t, o, ended, ended.Sub(began), canceled}
		})
	}
	return idleWait
}

// collect takes in the given reports and all others that wait, puts their
// targets back into the queue, and signals if any health changed.
func (c *Checker) collect(reports <-chan report, first ...report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for _, r := range first {
		changed = c.take(r) || changed
	}
	for range len(reports) {
		changed = c.take(<-reports) || changed
	}
	if changed {
		signal(c.changed)
	}
}

// take notes the end of a probe. The caller holds mu.
func (c *Checker) take(r report) (changed bool) {
	t := r.target
	c.inFlight--
	t.cancel = nil
	discard := t.discard || r.canceled
	t.discard = false
	if i, known := c.index[t.Key]; !known || c.targets[i] != t {
		return false
	}
	if !discard {
		changed = t.judge(r.outcome, r.took, r.ended)
		c.snapshot = nil
	}
	c.queue.insert(t)
	return changed
}
