package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newVIP(a *app) *cobra.Command {
	return noun("vip", "What clients connect to", newVIPAdd(a), newVIPSet(a), newVIPRemove(a), newVIPList(a), newVIPShow(a))
}

// vipFlags are the settings of a VIP.
type vipFlags struct {
	protocol, mode, pool, tracking string
	idleTimeout                    time.Duration
}

func (f *vipFlags) register(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.protocol, "protocol", "", "tcp or udp (new VIPs: tcp)")
	flags.StringVar(&f.mode, "mode", "", "how packets are forwarded: dsr-ipip or dsr-l2 (new VIPs: dsr-ipip)")
	flags.StringVar(&f.pool, "pool", "", "`name` of the pool that serves it")
	flags.StringVar(&f.tracking, "tracking", "", "connections to remember: flux, always or none (new VIPs: flux; udp: always)")
	flags.DurationVar(&f.idleTimeout, "idle-timeout", 0, fmt.Sprintf("how long a connection may be silent and still be kept, %v to %v (new VIPs: %v)",
		span(model.MinIdleTimeout), span(model.MaxIdleTimeout), span(model.DefaultIdleTimeout)))
	completeFlag(cmd, "protocol", "tcp", "udp")
	completeFlag(cmd, "tracking", "flux\tthose that a change of backends would move", "always\tall", "none\tnone: changes of backends break some")
	completeFlag(cmd, "idle-timeout")
	completeFlag(cmd, "mode", "dsr-ipip\tencapsulate in IP", "dsr-l2\trewrite the MAC address")
	a.completeFlagFrom(cmd, "pool", completePools)
}

func (f *vipFlags) fields(cmd *cobra.Command, name string) *steelyardv1.VIPFields {
	return &steelyardv1.VIPFields{
		Name:     name,
		Protocol: given(cmd, "protocol", f.protocol),
		Mode:     given(cmd, "mode", f.mode),
		Pool:     given(cmd, "pool", f.pool),
		Tracking: given(cmd, "tracking", f.tracking),

		IdleTimeoutNanoseconds: given(cmd, "idle-timeout", int64(f.idleTimeout)),
	}
}

// setEndpoint reads an endpoint into the fields.
func setEndpoint(fields *steelyardv1.VIPFields, endpoint string) error {
	addr, port, err := parseEndpoint(endpoint)
	if err != nil {
		return err
	}
	fields.Address, fields.Port = new(addr.String()), new(uint32(port))
	return nil
}

func newVIPAdd(a *app) *cobra.Command {
	var f vipFlags
	var backends, checks []string
	var expect uint64
	cmd := verb("add NAME ADDRESS:PORT (--pool POOL | --backend ADDRESS[:PORT][,weight=N] ...)", "Add a VIP", 2, 2, func(cmd *cobra.Command, args []string) error {
		fields := f.fields(cmd, args[0])
		if err := setEndpoint(fields, args[1]); err != nil {
			return err
		}
		if f.pool == "" && len(backends) == 0 {
			return usage(cmd, "say who serves it: --pool POOL, or --backend ADDRESS once for each backend")
		}
		if f.pool != "" && len(backends)+len(checks) > 0 {
			return usage(cmd, "pool %s has backends and checks of its own; give --pool, or --backend and --check", f.pool)
		}
		add := &steelyardv1.AddVIP{Vip: fields}
		var err error
		if add.Backends, err = parseBackends(backends); err != nil {
			return err
		}
		if add.Checks, add.NoChecks, err = parseChecks(checks); err != nil {
			return err
		}
		return a.change(cmd.Context(), expect, vipAdded(f, add, args), &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddVip{AddVip: add}})
	})
	cmd.Long = `Add a VIP on an address and a port; port "any" takes every port that no other VIP
of the address has.

With --backend a pool of the VIP's name is made of the backends. Its check is tcp on
the VIP's port (icmp for UDP and where the port is any) unless --check says otherwise.`
	cmd.Example = `  steelyard vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11,weight=2
  steelyard vip add web6 [2001:db8::10]:80 --backend 2001:db8:1::10 --check http/healthz
  steelyard vip add dns 192.0.2.53:53 --protocol udp --mode dsr-l2 --pool resolvers`
	f.register(a, cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&backends, "backend", nil, "`ADDRESS[:PORT][,weight=N]` of a backend; repeat for more")
	flags.StringArrayVar(&checks, "check", nil, "check of the backends: `TYPE[:PORT][/PATH]` or none; repeat for more")
	completeFlag(cmd, "backend")
	completeFlag(cmd, "check", checkTypes("none")...)
	registerExpect(cmd, &expect)
	return cmd
}

func vipAdded(f vipFlags, add *steelyardv1.AddVIP, args []string) string {
	protocol := f.protocol
	if protocol == "" {
		protocol = model.TCP.String()
	}
	if f.pool != "" {
		return fmt.Sprintf("added VIP %s %s/%s -> pool %s", args[0], args[1], protocol, f.pool)
	}
	return fmt.Sprintf("added VIP %s %s/%s -> pool %s, %s", args[0], args[1], protocol, args[0], plural(len(add.Backends), "backend"))
}

func newVIPSet(a *app) *cobra.Command {
	var f vipFlags
	var expect uint64
	cmd := verb("set NAME [ADDRESS:PORT] [--pool POOL] [--mode MODE] [--tracking TRACKING] ...", "Change a VIP", 1, 2, func(cmd *cobra.Command, args []string) error {
		fields := f.fields(cmd, args[0])
		if len(args) == 2 {
			if err := setEndpoint(fields, args[1]); err != nil {
				return err
			}
		} else if !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give an ADDRESS:PORT or a flag")
		}
		return a.change(cmd.Context(), expect, "changed VIP "+args[0], &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetVip{SetVip: fields}})
	})
	cmd.Long = "Change what is given of a VIP, and nothing else."
	cmd.Example = `  steelyard vip set web --pool web-green
  steelyard vip set web 192.0.2.11:8080`
	f.register(a, cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completeVIPs)
	return cmd
}

func newVIPRemove(a *app) *cobra.Command {
	var withPool bool
	var expect uint64
	cmd := verb("remove NAME [--with-pool]", "Remove a VIP", 1, 1, func(cmd *cobra.Command, args []string) error {
		summary := "removed VIP " + args[0]
		mutations := []*steelyardv1.Mutation{{Mutation: &steelyardv1.Mutation_RemoveVip{RemoveVip: args[0]}}}
		if withPool {
			pool, err := a.poolOf(cmd, args[0])
			if err != nil {
				return err
			}
			summary += " and pool " + pool
			mutations = append(mutations, &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemovePool{RemovePool: pool}})
		}
		return a.change(cmd.Context(), expect, summary, mutations...)
	})
	cmd.Aliases = []string{"rm", "delete"}
	cmd.Long = "Remove a VIP. Its pool stays, unless --with-pool says otherwise."
	cmd.Flags().BoolVar(&withPool, "with-pool", false, "remove the pool too, which no other VIP may use")
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completeVIPs)
	return cmd
}

// poolOf asks which pool serves a VIP.
func (a *app) poolOf(cmd *cobra.Command, vip string) (string, error) {
	client := a.client()
	defer client.Close()
	state, _, err := client.Get(cmd.Context())
	if err != nil {
		return "", err
	}
	v, err := state.VIP(vip)
	if err != nil {
		return "", err
	}
	return v.Pool, nil
}

func newVIPList(a *app) *cobra.Command {
	cmd := verb("list", "List the VIPs", 0, 0, func(cmd *cobra.Command, _ []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(views(o.status.VIPs, viewVIP), func(w io.Writer) { printVIPs(w, o.status.VIPs) })
	})
	cmd.Aliases = []string{"ls"}
	return cmd
}

func printVIPs(w io.Writer, vips []model.VIPStatus) {
	// While all is settled there is nothing to say of flows.
	tracked := slices.ContainsFunc(vips, func(v model.VIPStatus) bool { return v.Flows > 0 })
	influx := slices.ContainsFunc(vips, func(v model.VIPStatus) bool { return v.InFlux })
	header := []string{"VIP", "ENDPOINT", "MODE", "POOL", "AVAILABLE", "PACKETS", "BYTES", "CONNECTIONS"}
	t := newTable(w, append(header, optional(tracked, "FLOWS", influx, "IN FLUX")...)...)
	for _, v := range vips {
		cells := []any{v.Name, v.Endpoint(), v.Mode, v.Pool, yesNo(v.Available), v.Packets, size(v.Bytes), v.Connections}
		t.row(append(cells, optional[any](tracked, v.Flows, influx, yesNo(v.InFlux))...)...)
	}
	t.flush()
}

// optional returns the cells of two columns that a table may have.
func optional[T any](first bool, a T, second bool, b T) []T {
	var cells []T
	if first {
		cells = append(cells, a)
	}
	if second {
		cells = append(cells, b)
	}
	return cells
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newVIPShow(a *app) *cobra.Command {
	cmd := verb("show NAME", "Show a VIP and its backends", 1, 1, func(cmd *cobra.Command, args []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		v, err := o.vip(args[0])
		if err != nil {
			return err
		}
		pool, err := o.pool(v.Pool)
		if err != nil {
			return err
		}
		view := struct {
			vipView
			Backends []backendView `json:"backends"`
		}{viewVIP(v), o.view(*pool).Backends}
		return a.print(view, func(w io.Writer) {
			printVIPs(w, []model.VIPStatus{v})
			fmt.Fprintln(w)
			properties(w, "tracking", v.Tracking.String(), "idle timeout", span(v.IdleTimeout))
			fmt.Fprintln(w)
			a.printBackends(w, *pool)
		})
	})
	cmd.ValidArgsFunction = a.completeArgs(completeVIPs)
	return cmd
}
