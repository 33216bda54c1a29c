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

// newBackend is the noun of pools' backends and, with --vip and without a verb,
// the program that runs on a backend's host.
func newBackend(a *app) *cobra.Command {
	cmd := noun("backend", "Servers of a pool; with --vip, prepare this host to be one",
		newBackendAdd(a), newBackendSet(a), newBackendRemove(a), newBackendList(a), newBackendShow(a),
		newBackendDrain(a),
		newBackendState(a, "enable", "Give a backend new flows", model.Enabled),
		newBackendState(a, "disable", "Give a backend nothing", model.Disabled))
	addBackendHost(a, cmd)
	return cmd
}

// backendFlags are the settings of a backend.
type backendFlags struct {
	weight    uint32
	state     string
	serverIDs []string
	most      uint32
}

func (f *backendFlags) register(cmd *cobra.Command) {
	cmd.Flags().Uint32Var(&f.weight, "weight", 0, fmt.Sprintf("share in proportion to the others', 0 to %d; 0: no new flows (new backends: %d)", model.MaxWeight, model.DefaultWeight))
	cmd.Flags().StringVar(&f.state, "state", "", "enabled, draining or disabled (new backends: enabled)")
	cmd.Flags().StringArrayVar(&f.serverIDs, "server-id", nil, "`CONFIG:HEX` that names it in QUIC connection IDs, such as 0:c4605e, or none; repeat for more configurations")
	cmd.Flags().Uint32Var(&f.most, "max-connections", 0, fmt.Sprintf("connections that it may have at once, 1 to %d; 0: any number. VIPs of the pool need tracking always or mode fullnat", model.MaxMaxConnections))
	completeFlag(cmd, "state", "enabled", "draining", "disabled")
	completeFlag(cmd, "server-id")
}

// apply sets what the flags say where the argument itself says nothing.
func (f *backendFlags) apply(cmd *cobra.Command, b *steelyardv1.BackendFields) {
	if b.Weight == nil {
		b.Weight = given(cmd, "weight", f.weight)
	}
	if b.MaxConnections == nil {
		b.MaxConnections = given(cmd, "max-connections", f.most)
	}
	if b.State == nil {
		b.State = given(cmd, "state", f.state)
	}
	if b.ServerIds == nil && cmd.Flags().Changed("server-id") {
		b.ServerIds = &steelyardv1.ServerIDs{Ids: f.serverIDs}
		if slices.Equal(f.serverIDs, []string{"none"}) {
			b.ServerIds.Ids = nil
		}
	}
}

func inPool(pool string, b *steelyardv1.BackendFields) *steelyardv1.BackendInPool {
	return &steelyardv1.BackendInPool{Pool: pool, Backend: b}
}

// named says which backends of a pool were changed, and how.
func named(done, pool string, ids []string) string {
	noun := "backend"
	if len(ids) > 1 {
		noun = "backends"
	}
	return fmt.Sprintf("%s %s %s of pool %s", done, noun, strings.Join(ids, ", "), pool)
}

func newBackendAdd(a *app) *cobra.Command {
	var f backendFlags
	var expect uint64
	cmd := verb("add POOL ADDRESS[:PORT][,weight=N][,max_connections=N][,server_id=CONFIG:HEX] ...", "Add backends to a pool", 2, -1, func(cmd *cobra.Command, args []string) error {
		backends, err := parseBackends(args[1:])
		if err != nil {
			return err
		}
		var mutations []*steelyardv1.Mutation
		var ids []string
		for i, b := range backends {
			f.apply(cmd, b)
			id, _, _ := strings.Cut(args[1+i], ",")
			ids = append(ids, id)
			mutations = append(mutations, &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddBackend{AddBackend: inPool(args[0], b)}})
		}
		return a.change(cmd.Context(), expect, named("added", args[0], ids), mutations...)
	})
	cmd.Long = `Add backends to a pool. They get traffic after their first successful check; in a
pool without checks, at once.`
	cmd.Example = `  steelyard backend add web 10.0.1.12
  steelyard backend add web 10.0.1.13 10.0.1.14 --weight 2
  steelyard backend add h3 10.0.1.15 --server-id 0:c4605e`
	f.register(cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func newBackendSet(a *app) *cobra.Command {
	var f backendFlags
	var expect uint64
	cmd := verb("set POOL ADDRESS[:PORT] ... [--weight N] [--max-connections N] [--state STATE] [--server-id CONFIG:HEX ...]", "Change backends", 2, -1, func(cmd *cobra.Command, args []string) error {
		if !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give --weight, --max-connections, --state or --server-id")
		}
		return a.eachBackend(cmd, expect, "changed", args, func(pool string, id model.BackendID) *steelyardv1.Mutation {
			fields := backendFields(id)
			f.apply(cmd, fields)
			return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetBackend{SetBackend: inPool(pool, fields)}}
		})
	})
	f.register(cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeBackends)
	return cmd
}

// eachBackend changes every backend that the arguments POOL BACKEND ... name.
func (a *app) eachBackend(cmd *cobra.Command, expect uint64, done string, args []string, mutation func(pool string, id model.BackendID) *steelyardv1.Mutation) error {
	var mutations []*steelyardv1.Mutation
	for _, arg := range args[1:] {
		id, err := parseBackendID(arg)
		if err != nil {
			return err
		}
		mutations = append(mutations, mutation(args[0], id))
	}
	return a.change(cmd.Context(), expect, named(done, args[0], args[1:]), mutations...)
}

// newBackendState is a verb that sets the administrative state.
func newBackendState(a *app, name, short string, state model.AdminState) *cobra.Command {
	var expect uint64
	cmd := verb(name+" POOL ADDRESS[:PORT] ...", short, 2, -1, func(cmd *cobra.Command, args []string) error {
		done := map[model.AdminState]string{model.Enabled: "enabled", model.Disabled: "disabled"}[state]
		return a.eachBackend(cmd, expect, done, args, func(pool string, id model.BackendID) *steelyardv1.Mutation {
			fields := backendFields(id)
			fields.State = new(state.String())
			return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetBackend{SetBackend: inPool(pool, fields)}}
		})
	})
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeBackends)
	return cmd
}

func newBackendList(a *app) *cobra.Command {
	cmd := verb("list [POOL]", "List the backends of one pool or of all", 0, 1, func(cmd *cobra.Command, args []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		pools, err := o.pools(strings.Join(args, ""))
		if err != nil {
			return err
		}
		all := []backendView{}
		for _, p := range pools {
			all = append(all, o.view(p).Backends...)
		}
		return a.print(all, func(w io.Writer) { a.printBackends(w, pools...) })
	})
	cmd.Aliases = []string{"ls"}
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func (a *app) printBackends(w io.Writer, pools ...model.PoolStatus) {
	// While all is settled there is nothing to say of flows.
	tracked := slices.ContainsFunc(pools, func(p model.PoolStatus) bool {
		return slices.ContainsFunc(p.Backends, func(b model.BackendStatus) bool { return b.Flows > 0 || b.State == model.Draining })
	})
	issuing := slices.ContainsFunc(pools, func(p model.PoolStatus) bool {
		return slices.ContainsFunc(p.Backends, func(b model.BackendStatus) bool { return len(b.ServerIDs) > 0 })
	})
	limited := slices.ContainsFunc(pools, func(p model.PoolStatus) bool {
		return slices.ContainsFunc(p.Backends, func(b model.BackendStatus) bool { return b.MaxConnections > 0 })
	})
	header := []string{"POOL", "BACKEND", "STATE", "HEALTH", "CHECK", "WEIGHT", "SLOTS", "SHARE", "PACKETS", "BYTES", "CONNECTIONS"}
	header = append(header, optional(tracked, "FLOWS", limited, "LIMIT")...)
	if issuing {
		header = append(header, "SERVER IDS")
	}
	t := newTable(w, append(header, "NOTE")...)
	for i := range pools {
		p := &pools[i]
		for _, b := range p.Backends {
			health := strings.TrimSpace(b.Health.String() + " " + ago(a.Now(), b.Since))
			result, note := worst(b)
			cells := []any{p.Name, b, b.State, health, result, b.Weight, b.Slots, fmt.Sprintf("%.1f%%", 100*share(p, b)),
				b.Packets, size(b.Bytes), b.Connections}
			cells = append(cells, optional[any](tracked, b.Flows, limited, b.MaxConnections)...)
			if issuing {
				cells = append(cells, strings.Join(serverIDs(b), ","))
			}
			t.row(append(cells, join("; ", note, flowNote(a.Now(), b)))...)
		}
	}
	t.flush()
}

func serverIDs(b model.BackendStatus) []string { return views(b.ServerIDs, model.ServerID.String) }

// join joins what is not empty.
func join(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), separator)
}

// flowNote says what becomes of a backend's flows where that is not obvious:
// "draining, 42 flows, deadline in 9m40s".
func flowNote(now time.Time, b model.BackendStatus) string {
	flows := plural(int(b.Flows), "flow")
	if b.Named {
		flows += " and silent ones"
	}
	switch {
	case b.Full && b.State == model.Enabled:
		return fmt.Sprintf("full: %d of %d connections", b.Counted, b.MaxConnections)
	case b.State == model.Draining:
		return join(", ", "draining", flows, deadlineNote(now, b.Drain), map[bool]string{true: "then removed"}[b.Drain.Remove])
	case b.State == model.Enabled && b.Health == model.HealthDown && b.KeepsFlows:
		return "keeps " + flows + " for now"
	}
	return ""
}

// limitNote says how many connections a backend may have and has, "" if any number.
func limitNote(b model.BackendStatus) string {
	if b.MaxConnections == 0 {
		return ""
	}
	return fmt.Sprintf("%d, %d taken", b.MaxConnections, b.Counted)
}

func deadlineNote(now time.Time, d model.Drain) string {
	if d.Deadline.IsZero() {
		return ""
	}
	return "deadline in " + rounded(d.Deadline.Sub(now))
}

// worst returns the result of the check that speaks for a backend, the first
// that is down or else not yet up, and what an operator should know.
func worst(b model.BackendStatus) (result, note string) {
	var speaker *model.CheckStatus
	for i := range b.Checks {
		c := &b.Checks[i]
		if speaker == nil || rank(c.Health) > rank(speaker.Health) {
			speaker = c
		}
	}
	if speaker != nil {
		result = speaker.Result
		if speaker.Health != model.HealthUp {
			note = speaker.Detail
		}
	}
	if b.NextHop.Problem != "" {
		note = b.NextHop.Problem
	}
	return result, note
}

func rank(h model.Health) int {
	switch h {
	case model.HealthDown:
		return 2
	case model.HealthUnknown:
		return 1
	}
	return 0
}

func newBackendShow(a *app) *cobra.Command {
	cmd := verb("show POOL ADDRESS[:PORT]", "Show a backend, its next hop and what its checks found", 2, 2, func(cmd *cobra.Command, args []string) error {
		id, err := parseBackendID(args[1])
		if err != nil {
			return err
		}
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		pool, b, err := o.backend(args[0], id)
		if err != nil {
			return err
		}
		return a.print(viewBackend(pool, b), func(w io.Writer) { a.printBackend(w, pool, b) })
	})
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeBackends)
	return cmd
}

func (a *app) printBackend(w io.Writer, pool *model.PoolStatus, b model.BackendStatus) {
	hop := b.NextHop.Problem
	if hop == "" {
		hop = strings.TrimSpace(b.NextHop.MAC + " through " + b.NextHop.Interface)
		if b.NextHop.VLAN != 0 {
			hop += fmt.Sprintf(", VLAN %d", b.NextHop.VLAN)
		}
	}
	properties(w,
		"backend", b.String(),
		"pool", pool.Name,
		"state", join(": ", b.State.String(), strings.TrimPrefix(flowNote(a.Now(), b), "draining, ")),
		"health", strings.TrimSpace(b.Health.String()+" "+ago(a.Now(), b.Since)),
		"weight", fmt.Sprint(b.Weight),
		"max connections", limitNote(b),
		"server IDs", strings.Join(serverIDs(b), ", "),
		"slots", fmt.Sprintf("%d (%.1f%%)", b.Slots, 100*share(pool, b)),
		"next hop", hop,
		"packets", fmt.Sprint(b.Packets),
		"bytes", size(b.Bytes),
		"connections", fmt.Sprint(b.Connections),
		"flows", fmt.Sprint(b.Flows))
	if len(b.Checks) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "CHECK", "HEALTH", "RESULT", "DURATION", "LAST PROBE", "DETAIL", "LAST CHANGE")
	for _, c := range b.Checks {
		t.row(c.Name, strings.TrimSpace(c.Health.String()+" "+ago(a.Now(), c.Since)), c.Result, c.Duration, suffixed(ago(a.Now(), c.Checked), " ago"), c.Detail, c.Reason)
	}
	t.flush()
}

func suffixed(s, suffix string) string {
	if s == "" {
		return ""
	}
	return s + suffix
}
