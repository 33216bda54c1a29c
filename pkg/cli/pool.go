package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newPool(a *app) *cobra.Command {
	return noun("pool", "Backends that share traffic and health checks", newPoolAdd(a), newPoolSet(a), newPoolRemove(a), newPoolList(a), newPoolShow(a))
}

// poolFlags are the settings of a pool.
type poolFlags struct {
	tableSize uint32
	onAllDown string
}

func (f *poolFlags) register(cmd *cobra.Command) {
	cmd.Flags().Uint32Var(&f.tableSize, "table-size", 0, fmt.Sprintf("number of slots, a prime (new pools: %d)", model.DefaultTableSize))
	cmd.Flags().StringVar(&f.onAllDown, "on-all-down", "", "when no backend is up: drop, reset or last-known (new pools: drop)")
	completeFlag(cmd, "on-all-down", "drop\tdrop new packets", "reset\tanswer TCP with a RST", "last-known\tkeep the last table that had a backend")
}

func (f *poolFlags) fields(cmd *cobra.Command, name string) *steelyardv1.PoolFields {
	return &steelyardv1.PoolFields{
		Name:      name,
		TableSize: given(cmd, "table-size", f.tableSize),
		OnAllDown: given(cmd, "on-all-down", f.onAllDown),
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
	cmd := verb("set NAME [--table-size N] [--on-all-down CHOICE]", "Change a pool", 1, 1, func(cmd *cobra.Command, args []string) error {
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
			t := newTable(w, "POOL", "BACKENDS", "UP", "CHECKS", "TABLE SIZE", "ON ALL DOWN", "VIPS")
			for _, p := range pools {
				t.row(p.Name, len(p.Backends), countUp(p), checkNames(p), p.TableSize, p.OnAllDown, strings.Join(p.VIPs, ","))
			}
			t.flush()
		})
	})
	cmd.Aliases = []string{"ls"}
	return cmd
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
				"on all down", view.OnAllDown)
			fmt.Fprintln(w)
			printChecks(w, view.Checks)
			fmt.Fprintln(w)
			a.printBackends(w, *pool)
		})
	})
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}
