package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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
	affinity, fragments            string
	ipv4Prefix, ipv6Prefix, mss    uint32
	synCookies                     uint32
	quic                           bool
	sources                        sourceFlags
	limits                         limitFlags
}

func (f *vipFlags) register(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.protocol, "protocol", "", "tcp or udp (new VIPs: tcp)")
	flags.StringVar(&f.mode, "mode", "", "how packets are forwarded: dsr-ipip, dsr-gue, dsr-l2, nat or fullnat (new VIPs: dsr-ipip)")
	flags.StringVar(&f.pool, "pool", "", "`name` of the pool that serves it")
	flags.StringVar(&f.tracking, "tracking", "", "connections to remember: flux, always or none (new VIPs: flux; udp without --quic, and fullnat: always)")
	flags.DurationVar(&f.idleTimeout, "idle-timeout", 0, fmt.Sprintf("how long a connection may be silent and still be kept, %v to %v (new VIPs: %v)",
		span(model.MinIdleTimeout), span(model.MaxIdleTimeout), span(model.DefaultIdleTimeout)))
	flags.StringVar(&f.affinity, "affinity", "", "what shares a backend: nothing (flow), a client's connections to this VIP (source), or to the pool's VIPs (pool) (new VIPs: flow)")
	flags.Uint32Var(&f.ipv4Prefix, "affinity-ipv4-prefix", 0, "bits of an IPv4 source address that make a client, 1 to 32 (new VIPs: 32)")
	flags.Uint32Var(&f.ipv6Prefix, "affinity-ipv6-prefix", 0, "the same for IPv6, 1 to 128 (new VIPs: 128)")
	flags.StringVar(&f.fragments, "fragments", "", "fragments that come before their packet's first: drop (follow), or send by addresses alone (hash) (new VIPs: follow)")
	flags.Uint32Var(&f.mss, "mss", 0, fmt.Sprintf("largest TCP segment size that clients may ask of backends, %d to %d; 0: any (new VIPs: 0)", model.MinMSS, model.MaxMSS))
	flags.Uint32Var(&f.synCookies, "syn-cookies", 0, fmt.Sprintf("`SYNs` of a second that may begin connections, 1 to %d; more are answered with cookies: tcp under nat and fullnat; 0: all may (new VIPs: 0)", model.MaxSYNRate))
	flags.BoolVar(&f.quic, "quic", false, "udp carries QUIC: know its connections, and follow server IDs in connection IDs")
	completeFlag(cmd, "protocol", "tcp", "udp")
	completeFlag(cmd, "tracking", "flux\tthose that a change of backends would move", "always\tall", "none\tnone: changes of backends break some")
	completeFlag(cmd, "mode", "dsr-ipip\tencapsulate in IP", "dsr-gue\tencapsulate in UDP", "dsr-l2\trewrite the MAC address",
		"nat\trewrite the destination; answers come back through the balancer", "fullnat\trewrite source and destination; backends see an address of the balancer")
	completeFlag(cmd, "affinity", "flow\teach connection for itself", "source\ta client's connections together", "pool\ta client's connections together, to all VIPs of the pool")
	completeFlag(cmd, "fragments", "follow\tlater fragments follow the first", "hash\tfragments out of order go by addresses alone")
	for _, free := range []string{"idle-timeout", "affinity-ipv4-prefix", "affinity-ipv6-prefix", "mss", "syn-cookies"} {
		completeFlag(cmd, free)
	}
	a.completeFlagFrom(cmd, "pool", completePools)
	f.sources.register(a, cmd)
	f.limits.register(cmd)
}

func (f *vipFlags) fields(cmd *cobra.Command, name string) *steelyardv1.VIPFields {
	fields := &steelyardv1.VIPFields{
		Name:     name,
		Protocol: given(cmd, "protocol", f.protocol),
		Mode:     given(cmd, "mode", f.mode),
		Pool:     given(cmd, "pool", f.pool),
		Tracking: given(cmd, "tracking", f.tracking),

		IdleTimeoutNanoseconds: given(cmd, "idle-timeout", int64(f.idleTimeout)),

		Affinity:           given(cmd, "affinity", f.affinity),
		AffinityIpv4Prefix: given(cmd, "affinity-ipv4-prefix", f.ipv4Prefix),
		AffinityIpv6Prefix: given(cmd, "affinity-ipv6-prefix", f.ipv6Prefix),
		Fragments:          given(cmd, "fragments", f.fragments),
		Mss:                given(cmd, "mss", f.mss),
		Quic:               given(cmd, "quic", f.quic),
		SynCookies:         given(cmd, "syn-cookies", f.synCookies),

		Deny:  given(cmd, "deny", f.sources.deny),
		Allow: given(cmd, "allow", f.sources.allow),
	}
	f.limits.fill(cmd, fields)
	return fields
}

func newVIPAdd(a *app) *cobra.Command {
	var f vipFlags
	var backends, checks []string
	var expect uint64
	cmd := verb("add NAME ENDPOINT ... (--pool POOL | --backend ADDRESS[:PORT][,weight=N] ...)", "Add a VIP", 2, -1, func(cmd *cobra.Command, args []string) error {
		fields := f.fields(cmd, args[0])
		var err error
		if fields.Endpoints, err = parseEndpoints(args[1:]); err != nil {
			return err
		}
		if f.pool == "" && len(backends) == 0 {
			return usage(cmd, "say who serves it: --pool POOL, or --backend ADDRESS once for each backend")
		}
		if f.pool != "" && len(backends)+len(checks) > 0 {
			return usage(cmd, "pool %s has backends and checks of its own; give --pool, or --backend and --check", f.pool)
		}
		add := &steelyardv1.AddVIP{Vip: fields}
		if add.Backends, err = parseBackends(backends); err != nil {
			return err
		}
		if add.Checks, add.NoChecks, err = parseChecks(checks); err != nil {
			return err
		}
		return a.change(cmd.Context(), expect, vipAdded(f, add, args), &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddVip{AddVip: add}})
	})
	cmd.Long = `Add a VIP on one or several endpoints. An ENDPOINT is an address and its ports, with
commas between: ports, ranges of ports, or "any". A port takes precedence over a
range that another VIP of the address and protocol has, and a range over "any".

With --backend a pool of the VIP's name is made of the backends. Its check is tcp on
the VIP's port, or icmp for UDP and where there is not just one port, unless --check
says otherwise. Backends of nat and fullnat may have ports of their own, on which they
are checked then.`
	cmd.Example = `  steelyard vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11,weight=2
  steelyard vip add web6 [2001:db8::10]:80 --backend 2001:db8:1::10 --check http/healthz
  steelyard vip add dns 192.0.2.53:53 --protocol udp --mode dsr-l2 --pool resolvers
  steelyard vip add shop 192.0.2.10:80,443 [2001:db8::10]:80,443 --pool web --affinity source
  steelyard vip add ftp 192.0.2.21:21,30000-30999 --pool ftp --affinity source
  steelyard vip add h3 192.0.2.10:443 --protocol udp --quic --mode dsr-gue --pool web
  steelyard vip add app 192.0.2.10:8080 --mode nat --backend 10.0.1.10:80 --backend 10.0.1.11:80`
	f.register(a, cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&backends, "backend", nil, "`ADDRESS[:PORT][,weight=N]` of a backend, and [,server_id=CONFIG:HEX] for QUIC; repeat for more")
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
	service := args[1] + "/" + protocol
	if more := len(args) - 2; more > 0 {
		service += fmt.Sprintf(" and %d more", more)
	}
	if f.pool != "" {
		return fmt.Sprintf("added VIP %s %s -> pool %s", args[0], service, f.pool)
	}
	return fmt.Sprintf("added VIP %s %s -> pool %s, %s", args[0], service, args[0], plural(len(add.Backends), "backend"))
}

func newVIPSet(a *app) *cobra.Command {
	var f vipFlags
	var add, remove []string
	var expect uint64
	cmd := verb("set NAME [ENDPOINT ...] [--pool POOL] [--mode MODE] [--tracking TRACKING] ...", "Change a VIP", 1, -1, func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give an ENDPOINT or a flag")
		}
		fields := f.fields(cmd, args[0])
		var errs [3]error
		fields.Endpoints, errs[0] = parseEndpoints(args[1:])
		fields.AddEndpoints, errs[1] = parseEndpoints(add)
		fields.RemoveEndpoints, errs[2] = parseEndpoints(remove)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		return a.change(cmd.Context(), expect, "changed VIP "+args[0], &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetVip{SetVip: fields}})
	})
	cmd.Long = `Change what is given of a VIP, and nothing else. Endpoints, if any are given, replace
all that it had; --add-endpoint and --remove-endpoint change single ones. Connections
to an endpoint that goes break, all others stay.

A VIP that starts to carry QUIC is tracked as it was: --tracking flux is the setting
of a new one. One that is to have the mode fullnat needs --tracking always.`
	cmd.Example = `  steelyard vip set web --pool web-green
  steelyard vip set web 192.0.2.11:8080
  steelyard vip set web --add-endpoint [2001:db8::10]:80,443 --remove-endpoint 192.0.2.11:8080
  steelyard vip set web --affinity source --affinity-ipv4-prefix 24
  steelyard vip set h3 --quic --tracking flux`
	f.register(a, cmd)
	cmd.Flags().StringArrayVar(&add, "add-endpoint", nil, "`ENDPOINT` to add; repeat for more")
	cmd.Flags().StringArrayVar(&remove, "remove-endpoint", nil, "`ENDPOINT` to take away; repeat for more")
	completeFlag(cmd, "add-endpoint")
	a.completeFlagFrom(cmd, "remove-endpoint", completeEndpoints)
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
		cells := []any{v.Name, v.Service(), v.Mode, v.Pool, yesNo(v.Available), v.Packets, size(v.Bytes), v.Connections}
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
			properties(w, vipProperties(&v.VIP)...)
			printReasons(w, v.Dropped)
			printObserved(w, &v)
			fmt.Fprintln(w)
			a.printBackends(w, *pool)
		})
	})
	cmd.ValidArgsFunction = a.completeArgs(completeVIPs)
	return cmd
}

func vipProperties(v *model.VIP) []string {
	pairs := []string{
		"endpoints", endpointList(v.Endpoints),
		"tracking", v.Tracking.String(), "idle timeout", span(v.IdleTimeout),
		"affinity", affinity(v.Affinity), "fragments", v.Fragments.String(),
	}
	switch {
	case v.Protocol == model.UDP:
		pairs = append(pairs, "QUIC", yesNo(v.QUIC))
	case v.MSS != 0:
		pairs = append(pairs, "MSS", fmt.Sprint(v.MSS))
	default:
		pairs = append(pairs, "MSS", "any")
	}
	if v.SYNCookies != 0 {
		pairs = append(pairs, "SYN cookies", fmt.Sprintf("above %d/s", v.SYNCookies))
	}
	if v.Sources.Deny != "" {
		pairs = append(pairs, "deny", v.Sources.Deny)
	}
	if v.Sources.Allow != "" {
		pairs = append(pairs, "allow", v.Sources.Allow)
	}
	return append(pairs, limitProperties(v.Limits)...)
}

func affinity(a model.Affinity) string {
	if a.Scope == model.AffinityFlow {
		return a.Scope.String()
	}
	return fmt.Sprintf("%s, IPv4 /%d, IPv6 /%d", a.Scope, a.IPv4Prefix, a.IPv6Prefix)
}

// endpointList renders endpoints as the arguments of vip add take them, those of
// an address together: "192.0.2.10:80,443 [2001:db8::10]:80".
func endpointList(endpoints []model.Endpoint) string {
	var b strings.Builder
	for i, e := range endpoints {
		switch {
		case i == 0:
			b.WriteString(e.String())
		case e.Address == endpoints[i-1].Address:
			b.WriteString("," + e.Ports.String())
		default:
			b.WriteString(" " + e.String())
		}
	}
	return b.String()
}
