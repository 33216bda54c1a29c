package reconcile

import (
	"context"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Desired returns the desired state and its revision. The state is shared and
// must not be changed.
func (l *Loop) Desired() (model.State, uint64) {
	d := l.snapshot.Load()
	return d.state, d.revision
}

// Change runs mutate on a copy of the desired state, validates the result,
// makes sure that the data plane has room for it, stores it as a new revision
// and applies it. On error nothing has changed. If expect is not 0 and not the
// current revision, the error is a [model.RevisionError]. mutate runs in the
// goroutine of Run, and nothing of the copy may be written to after it returns.
//
// A state that is stored but cannot be applied at once is retried, and shows in
// Status; that is no error of Change.
func (l *Loop) Change(ctx context.Context, expect uint64, note string, mutate func(*model.State) error) (uint64, error) {
	var revision uint64
	var failure error
	err := l.call(ctx, func() { revision, failure = l.change(expect, note, mutate) })
	if err != nil {
		return 0, err
	}
	return revision, failure
}

func (l *Loop) change(expect uint64, note string, mutate func(*model.State) error) (uint64, error) {
	if expect != 0 && expect != l.desired.revision {
		return 0, &model.RevisionError{Expected: expect, Actual: l.desired.revision}
	}
	next := l.desired.state.Clone()
	if err := mutate(&next); err != nil {
		return 0, err
	}
	next.Sort()
	if err := next.Validate(); err != nil {
		return 0, err
	}
	if err := l.separate(next); err != nil {
		return 0, err
	}
	forwarded, err := l.build(next)
	if err != nil {
		return 0, err
	}
	if err := l.o.Plane.Check(forwarded); err != nil {
		return 0, err
	}
	revision, err := l.o.Store.Save(l.desired.revision, next, note)
	if err != nil {
		return 0, err
	}
	if revision == l.desired.revision {
		return revision, nil
	}
	l.adopt(desired{next, revision})
	l.o.Log.Info("desired state changed", "revision", revision, "change", note)
	l.reconcile()
	return revision, nil
}

// call runs f in the goroutine of Run and waits for it.
func (l *Loop) call(ctx context.Context, f func()) error {
	if err := ctx.Err(); err != nil {
		return err // select would toss a coin
	}
	done := make(chan struct{})
	request := func() {
		defer close(done)
		f()
	}
	select {
	case l.requests <- request:
	case <-ctx.Done():
		return ctx.Err()
	}
	// Once taken, a request is always finished: whoever asked must learn what came of it.
	<-done
	return nil
}
