package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newPool(a *app) *cobra.Command {
	return noun("pool", "Backends that share traffic and health checks", newPoolAdd(a), newPoolSet(a), newPoolRemove(a), newPoolList(a), newPoolShow(a))
}

// poolFlags are the settings of a pool.
type poolFlags struct {
	tableSize            uint32
	onAllDown            string
	downGrace, slowStart time.Duration
}

func (f *poolFlags) register(cmd *cobra.Command) {
	cmd.Flags().Uint32Var(&f.tableSize, "table-size", 0, fmt.Sprintf("number of slots, a prime (new pools: %d)", model.DefaultTableSize))
	cmd.Flags().StringVar(&f.onAllDown, "on-all-down", "", "when no backend is up: drop, reset or last-known (new pools: drop)")
	cmd.Flags().DurationVar(&f.downGrace, "down-grace", 0, fmt.Sprintf("how long a backend that is down keeps its connections, up to %v (new pools: %v)", span(model.MaxDownGrace), span(model.DefaultDownGrace)))
	cmd.Flags().DurationVar(&f.slowStart, "slow-start", 0, fmt.Sprintf("time over which a backend that comes up grows to its share, up to %v; 0s: at once (new pools: 0s)", span(model.MaxSlowStart)))
	completeFlag(cmd, "down-grace")
	completeFlag(cmd, "slow-start")
	completeFlag(cmd, "on-all-down", "drop\tdrop new packets", "reset\tanswer TCP with a RST", "last-known\tkeep the last table that had a backend")
}

func (f *poolFlags) fields(cmd *cobra.Command, name string) *steelyardv1.PoolFields {
	return &steelyardv1.PoolFields{
		Name:      name,
		TableSize: given(cmd, "table-size", f.tableSize),
		OnAllDown: given(cmd, "on-all-down", f.onAllDown),

		DownGraceNanoseconds: given(cmd, "down-grace", int64(f.downGrace)),
		SlowStartNanoseconds: given(cmd, "slow-start", int64(f.slowStart)),
	}
}

func newPoolAdd(a *app) *cobra.Command {
	var f poolFlags
	var checks []string
	var expect uint64
	cmd := verb("add NAME [ADDRESS[:PORT][,weight=N] ...] [--check TYPE[:PORT][/PATH] ...]", "Add a pool", 1, -1, func(cmd *cobra.Command, args []string) error {
		add := &steelyardv1.AddPool{Pool: f.fields(cmd, args[0])}
		var err error
		if add.Backends, err = parseBackends(args[1:]); err != nil {
			return err
		}
		if add.Checks, _, err = parseChecks(checks); err != nil {
			return err
		}
		summary := fmt.Sprintf("added pool %s, %s, %s", args[0], plural(len(add.Backends), "backend"), plural(len(add.Checks), "check"))
		return a.change(cmd.Context(), expect, summary, &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddPool{AddPool: add}})
	})
	cmd.Long = `Add a pool, with or without backends and checks, which can be added later. The
backends of a pool without checks count as up.`
	cmd.Example = `  steelyard pool add web 10.0.1.10 10.0.1.11,weight=2 --check http:80/healthz
  steelyard pool add resolvers --on-all-down last-known`
	f.register(cmd)
	cmd.Flags().StringArrayVar(&checks, "check", nil, "check of the backends: `TYPE[:PORT][/PATH]`; repeat for more")
	completeFlag(cmd, "check", checkTypes("none")...)
	registerExpect(cmd, &expect)
	return cmd
}

func newPoolSet(a *app) *cobra.Command {
	var f poolFlags
	var expect uint64
	cmd := verb("set NAME [--table-size N] [--on-all-down CHOICE] ...", "Change a pool", 1, 1, func(cmd *cobra.Command, args []string) error {
		fields := f.fields(cmd, args[0])
		if !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give a flag")
		}
		return a.change(cmd.Context(), expect, "changed pool "+args[0], &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetPool{SetPool: fields}})
	})
	f.register(cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func newPoolRemove(a *app) *cobra.Command {
	var expect uint64
	cmd := verb("remove NAME", "Remove a pool that no VIP uses", 1, 1, func(cmd *cobra.Command, args []string) error {
		return a.change(cmd.Context(), expect, "removed pool "+args[0], &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemovePool{RemovePool: args[0]}})
	})
	cmd.Aliases = []string{"rm", "delete"}
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func newPoolList(a *app) *cobra.Command {
	cmd := verb("list", "List the pools", 0, 0, func(cmd *cobra.Command, _ []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		pools := views(o.status.Pools, o.view)
		return a.print(pools, func(w io.Writer) {
			tracked := slices.ContainsFunc(pools, func(p poolView) bool { return p.flows() > 0 })
			influx := slices.ContainsFunc(pools, func(p poolView) bool { return p.SlotsInFlux > 0 })
			header := []string{"POOL", "BACKENDS", "UP", "CHECKS", "TABLE SIZE", "ON ALL DOWN", "VIPS"}
			t := newTable(w, append(header, optional(tracked, "FLOWS", influx, "IN FLUX")...)...)
			for _, p := range pools {
				cells := []any{p.Name, len(p.Backends), countUp(p), checkNames(p), p.TableSize, p.OnAllDown, strings.Join(p.VIPs, ",")}
				t.row(append(cells, optional[any](tracked, p.flows(), influx, p.SlotsInFlux)...)...)
			}
			t.flush()
		})
	})
	cmd.Aliases = []string{"ls"}
	return cmd
}

func inFlux(p poolView) string {
	if p.SlotsInFlux == 0 {
		return "no slots"
	}
	return fmt.Sprintf("%s (%.1f%%)", plural(int(p.SlotsInFlux), "slot"), 100*float64(p.SlotsInFlux)/float64(max(1, p.TableSize)))
}

func countUp(p poolView) int {
	n := 0
	for _, b := range p.Backends {
		if b.Health == model.HealthUp.String() {
			n++
		}
	}
	return n
}

func checkNames(p poolView) string {
	names := views(p.Checks, func(c checkView) string { return c.Name })
	return strings.Join(names, ",")
}

func newPoolShow(a *app) *cobra.Command {
	cmd := verb("show NAME", "Show a pool, its checks and its backends", 1, 1, func(cmd *cobra.Command, args []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		pool, err := o.pool(args[0])
		if err != nil {
			return err
		}
		view := o.view(*pool)
		return a.print(view, func(w io.Writer) {
			properties(w,
				"pool", view.Name,
				"VIPs", strings.Join(view.VIPs, ", "),
				"table size", fmt.Sprint(view.TableSize),
				"in flux", inFlux(view),
				"on all down", view.OnAllDown,
				"down grace", view.DownGrace,
				"slow start", view.SlowStart)
			fmt.Fprintln(w)
			printChecks(w, view.Checks)
			fmt.Fprintln(w)
			a.printBackends(w, *pool)
		})
	})
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}
