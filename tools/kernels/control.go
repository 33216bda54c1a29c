package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

// control is a machine that must be found to have failed, and why.
type control struct {
	name  string
	tests []string // a job for each
	// says is what the failure has to say: of each test, and of the machine.
	says []string
	// timeout is for the machine, 0 means the usual one.
	timeout time.Duration
}

// hangs is how long a test of a control may hang.
const hangs = 2 * time.Second

// controls are the ways in which a run can go wrong in silence.
func controls() []control {
	return []control{
		{name: "failures", tests: []string{"TestFails", "TestSkips", "TestHangs", "TestIsNotThere"}, says: []string{
			"TestFails: exit status 1", "TestSkips was skipped", "TestHangs: exit status 2", "TestIsNotThere has not passed",
		}},
		{name: "panic", tests: []string{"TestKernelPanics"}, says: []string{"the kernel panicked", "TestKernelPanics: no result"}},
		{name: "power off", tests: []string{"TestPowersOff"}, says: []string{"TestPowersOff: no result", "without its last line"}},
		{name: "timeout", tests: []string{"TestHangs"}, says: []string{"still running after", "without its last line"}, timeout: time.Second},
	}
}

// prove boots a kernel for each control and returns nil if every one is found to
// have failed as it did.
func (r *runner) prove(ctx context.Context, k kernel) error {
	began := time.Now()
	b, err := r.build(ctx, []job{{pkg: "test/kernels/control", tags: "control"}})
	if err != nil {
		return err
	}
	test := b.jobs[0]
	all := controls()
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		wg.Go(func() {
			m := machine{kernel: k, timeout: c.timeout, say: func(string) {}, ended: func(plan.Event) {}}
			if m.timeout == 0 {
				m.timeout = r.timeout
			}
			for _, name := range c.tests {
				test := test
				test.Name, test.Tests, test.Timeout = name, []string{name}, hangs
				m.jobs = append(m.jobs, test)
			}
			errs[i] = c.judge(r.boot(ctx, &m, b, "control "+c.name))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.print(k.line, "ok   control: %d machines failed as they should in %v", len(all), time.Since(began).Round(time.Millisecond))
	return nil
}

// judge wants a failure that says why.
func (c control) judge(failure error) error {
	if failure == nil {
		return fmt.Errorf("control %s: the machine counts as passed; results are worth nothing", c.name)
	}
	for _, what := range c.says {
		if !strings.Contains(failure.Error(), what) {
			return fmt.Errorf("control %s: it does not say %q: %w", c.name, what, failure)
		}
	}
	return nil
}
