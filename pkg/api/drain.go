package api

import (
	"fmt"
	"slices"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// maxDeadline bounds how long draining may be given.
const maxDeadline = 365 * 24 * time.Hour

func (m *mutator) drainBackend(drain *steelyardv1.DrainBackend) error {
	b, err := m.findBackend(drain.GetPool(), orEmpty(drain.GetBackend()))
	if err != nil {
		return err
	}
	return m.drain(drain.GetPool(), b, drain.DeadlineNanoseconds, drain.GetRemove())
}

// drain makes a backend drain, or changes how its draining ends.
func (m *mutator) drain(pool string, b *model.Backend, deadline *int64, remove bool) error {
	next := model.Drain{Since: m.now, Remove: remove}
	if b.State == model.Draining && !b.Drain.Since.IsZero() {
		next.Since = b.Drain.Since
	}
	if deadline != nil {
		d := time.Duration(*deadline)
		if d <= 0 || d > maxDeadline {
			return atBackend(pool, b.BackendID).fail("deadline", "%v must be more than 0 and at most %v; leave it out to drain for as long as it takes", d, maxDeadline)
		}
		next.Deadline = m.now.Add(d)
	}
	b.State, b.Drain = model.Draining, next
	name := BackendName{pool, b.BackendID}
	m.drained = append(m.drained, name)
	if remove {
		m.leaving = append(m.leaving, name)
	}
	return nil
}

// removeBackend lets a backend that may have flows drain first, unless the
// operator says now.
func (m *mutator) removeBackend(remove *steelyardv1.RemoveBackend) error {
	pool := remove.GetPool()
	b, err := m.findBackend(pool, orEmpty(remove.GetBackend()))
	if err != nil {
		return err
	}
	if remove.GetNow() && remove.DeadlineNanoseconds != nil {
		return atBackend(pool, b.BackendID).fail("deadline", "is for draining, but it is to be removed now; give one of the two")
	}
	if !remove.GetNow() && b.State != model.Disabled && len(m.VIPsOf(pool)) > 0 {
		return m.drain(pool, b, remove.DeadlineNanoseconds, true)
	}
	id := b.BackendID
	p, err := m.Pool(pool)
	if err != nil {
		return err
	}
	p.Backends = slices.DeleteFunc(p.Backends, func(b model.Backend) bool { return b.BackendID == id })
	m.leaving = append(m.leaving, BackendName{pool, id})
	return nil
}

// judgeLeaving refuses to leave a VIP without a backend, now or once those that
// drain are removed.
func (m *mutator) judgeLeaving() error {
	for _, b := range m.leaving {
		pool, err := m.Pool(b.Pool)
		if users := m.VIPsOf(b.Pool); err == nil && len(users) > 0 && !anyStays(pool) {
			return &model.ConflictError{Reason: fmt.Sprintf("backend %s is the last one of pool %q, which is in use by %s; add another first, or take it out of use with: steelyard backend drain %s %s",
				b.ID, b.Pool, vipNames(users), b.Pool, b.ID)}
		}
	}
	for _, v := range m.VIPs {
		if pool, err := m.Pool(v.Pool); err == nil && len(pool.Backends) > 0 && !anyStays(pool) {
			return &model.ConflictError{Reason: fmt.Sprintf("every backend of pool %q is removed once it is drained, and VIP %s would have none; add another first, or keep one with: steelyard backend enable %s %s",
				v.Pool, v.Name, v.Pool, pool.Backends[0])}
		}
	}
	return nil
}

// anyStays reports whether a pool has a backend that is not on its way out.
func anyStays(p *model.Pool) bool {
	return slices.ContainsFunc(p.Backends, func(b model.Backend) bool { return !b.Drain.Remove })
}

// stillDraining returns the backends that were given a drain which no later
// mutation undid, each once.
func (m *mutator) stillDraining() []BackendName {
	var out []BackendName
	for _, name := range m.drained {
		b, err := m.Backend(name.Pool, name.ID)
		if err == nil && b.State == model.Draining && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
