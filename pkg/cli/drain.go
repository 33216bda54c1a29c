package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	// pollInterval is how often --wait looks.
	pollInterval = 500 * time.Millisecond
	// pollsWithoutDaemon is how often in a row --wait may find no daemon: long
	// enough for a restart, which draining outlives.
	pollsWithoutDaemon = 120
)

// drainFlags are those of the verbs that drain.
type drainFlags struct {
	deadline time.Duration
	wait     bool
	expect   uint64
}

func (f *drainFlags) register(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&f.deadline, "deadline", 0, "give up what connections are left after this time (default: drain for as long as it takes)")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until it is drained, and show how many connections are left; Ctrl-C ends the waiting only")
	completeFlag(cmd, "deadline")
	registerExpect(cmd, &f.expect)
}

func (f *drainFlags) deadlineGiven(cmd *cobra.Command) *int64 {
	return given(cmd, "deadline", int64(f.deadline))
}

func newBackendDrain(a *app) *cobra.Command {
	var f drainFlags
	cmd := verb("drain POOL ADDRESS[:PORT] ... [--deadline TIME] [--wait]", "Let a backend's connections end, give it no new ones, then disable it", 2, -1, func(cmd *cobra.Command, args []string) error {
		return a.drain(cmd, f, "draining", args, func(id model.BackendID) *steelyardv1.Mutation {
			return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_DrainBackend{DrainBackend: &steelyardv1.DrainBackend{
				Pool: args[0], Backend: backendFields(id), DeadlineNanoseconds: f.deadlineGiven(cmd),
			}}}
		})
	})
	cmd.Long = `Give backends no new connections, but keep those that they have. A backend is
disabled once none is left, at the latest at the deadline. "backend enable" ends
draining early.`
	cmd.Example = `  steelyard backend drain web 10.0.1.10
  steelyard backend drain web 10.0.1.10 --deadline 10m --wait && ssh 10.0.1.10 reboot`
	f.register(cmd)
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeBackends)
	return cmd
}

func newBackendRemove(a *app) *cobra.Command {
	var f drainFlags
	var now bool
	cmd := verb("remove POOL ADDRESS[:PORT] ... [--now | --deadline TIME] [--wait]", "Remove backends from a pool, after draining them", 2, -1, func(cmd *cobra.Command, args []string) error {
		if now && f.deadlineGiven(cmd) != nil {
			return usage(cmd, "--now removes without draining, so there is no --deadline; give one of the two")
		}
		return a.drain(cmd, f, "removed", args, func(id model.BackendID) *steelyardv1.Mutation {
			return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveBackend{RemoveBackend: &steelyardv1.RemoveBackend{
				Pool: args[0], Backend: backendFields(id), Now: now, DeadlineNanoseconds: f.deadlineGiven(cmd),
			}}}
		})
	})
	cmd.Aliases = []string{"rm", "delete"}
	cmd.Long = `Remove backends from a pool. One that may have connections is drained first: it
gets no new ones and is gone once none is left, at the latest at the deadline. One
that is disabled, or in a pool that no VIP uses, is removed at once.`
	cmd.Example = `  steelyard backend remove web 10.0.1.10 --deadline 10m
  steelyard backend remove web 10.0.1.10 --now`
	f.register(cmd)
	cmd.Flags().BoolVar(&now, "now", false, "remove at once, and break its connections")
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeBackends)
	return cmd
}

// drain drains or removes the backends that the arguments POOL BACKEND ... name,
// and waits for those that drain if it shall. done is what became of the others.
func (a *app) drain(cmd *cobra.Command, f drainFlags, done string, args []string, mutation func(model.BackendID) *steelyardv1.Mutation) error {
	var mutations []*steelyardv1.Mutation
	var ids []string
	for _, arg := range args[1:] {
		id, err := parseBackendID(arg)
		if err != nil {
			return err
		}
		mutations = append(mutations, mutation(id))
		ids = append(ids, id.String())
	}
	summarize := func(drained []api.BackendName) string {
		names := views(drained, func(b api.BackendName) string { return b.ID.String() })
		gone := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(names, id) })
		var parts []string
		if len(gone) > 0 {
			parts = append(parts, named(done, args[0], gone))
		}
		if len(names) > 0 {
			parts = append(parts, named("draining", args[0], names)+map[bool]string{true: ", then removing"}[done == "removed"])
		}
		return strings.Join(parts, "; ")
	}
	draining, err := a.changeTo(cmd.Context(), f.expect, named(cmd.Name(), args[0], ids), summarize, mutations...)
	if err != nil || !f.wait {
		return err
	}
	return a.wait(cmd.Context(), draining)
}

// wait returns when backends no longer drain. It prints a line whenever what is
// left of one changes: where the output is for programs, to standard error.
func (a *app) wait(ctx context.Context, draining []api.BackendName) error {
	w := &waiter{app: a, out: a.Stdout, last: make(map[api.BackendName]model.BackendStatus)}
	if a.output != "table" {
		w.out = a.Stderr
	}
	client := a.client()
	defer client.Close()
	absent := 0
	for {
		status, err := client.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if absent++; exitCode(err) != exitUnreachable || absent >= pollsWithoutDaemon {
				return fmt.Errorf("waiting for draining to end: %w", err)
			}
		default:
			absent = 0
			if draining, err = w.look(&status, draining); err != nil || len(draining) == 0 {
				return err
			}
		}
		select {
		case <-ctx.Done():
			left := views(draining, func(b api.BackendName) string { return b.ID.String() })
			return fmt.Errorf("stopped waiting; still draining: %s", strings.Join(left, ", "))
		case <-a.After(pollInterval):
		}
	}
}

// waiter remembers what was printed.
type waiter struct {
	*app
	out  io.Writer
	last map[api.BackendName]model.BackendStatus
}

// look prints what is new of the backends and returns those that still drain.
func (w *waiter) look(s *model.Status, draining []api.BackendName) (left []api.BackendName, err error) {
	for _, name := range draining {
		b, found := backendOf(s, name)
		last, seen := w.last[name]
		switch {
		case !found:
			fmt.Fprintf(w.out, "drained %s: removed%s\n", name.ID, w.givenUp(last))
			continue
		case b.State == model.Disabled:
			fmt.Fprintf(w.out, "drained %s: disabled%s\n", name.ID, w.givenUp(last))
			continue
		case b.State != model.Draining:
			return nil, &model.ConflictError{Reason: fmt.Sprintf("backend %s no longer drains: somebody set it to %s in the meantime", name.ID, b.State)}
		}
		left = append(left, name)
		if !seen || last.Flows != b.Flows || last.Named != b.Named {
			fmt.Fprintf(w.out, "draining %s: %s\n", name.ID, w.rest(b))
		}
		w.last[name] = b
	}
	return left, nil
}

// rest says what a draining backend still has.
func (w *waiter) rest(b model.BackendStatus) string {
	flows := plural(int(b.Flows), "flow") + " left"
	if b.Named {
		flows += ", and those that are silent"
	}
	return join("; ", flows, deadlineNote(w.Now(), b.Drain))
}

// givenUp says what a backend had when it was last seen, if its deadline ended it.
func (w *waiter) givenUp(last model.BackendStatus) string {
	if d := last.Drain.Deadline; d.IsZero() || w.Now().Before(d) || last.Flows == 0 {
		return ""
	}
	return fmt.Sprintf(" at its deadline, with %s left", plural(int(last.Flows), "flow"))
}

func backendOf(s *model.Status, name api.BackendName) (model.BackendStatus, bool) {
	for _, p := range s.Pools {
		if p.Name != name.Pool {
			continue
		}
		for _, b := range p.Backends {
			if b.BackendID == name.ID {
				return b, true
			}
		}
	}
	return model.BackendStatus{}, false
}
