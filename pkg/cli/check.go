package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func newCheck(a *app) *cobra.Command {
	return noun("check", "Health checks of a pool's backends", newCheckAdd(a), newCheckSet(a), newCheckRemove(a), newCheckList(a), newCheckShow(a))
}

// checkFlags are the settings of a check.
type checkFlags struct {
	kind, host, path, body, send     string
	port, rise, fall, jitter, status uint32
	interval, timeout                time.Duration
}

func (f *checkFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "type", "", "tcp, http, https, udp or icmp (new checks: NAME if it is one of these, or tcp)")
	flags.Uint32Var(&f.port, "port", 0, "port to probe; 0: the backend's own")
	flags.DurationVar(&f.interval, "interval", 0, fmt.Sprintf("time from probe to probe (new checks: %v)", model.DefaultCheckInterval))
	flags.DurationVar(&f.timeout, "timeout", 0, fmt.Sprintf("time for one probe, at most the interval (new checks: %v)", model.DefaultCheckTimeout))
	flags.Uint32Var(&f.rise, "rise", 0, fmt.Sprintf("probes in a row that must pass until up (new checks: %d)", model.DefaultCheckRise))
	flags.Uint32Var(&f.fall, "fall", 0, fmt.Sprintf("probes in a row that must fail until down (new checks: %d)", model.DefaultCheckFall))
	flags.Uint32Var(&f.jitter, "jitter", 0, "percent of the interval to vary it by, 0 to 50")
	flags.StringVar(&f.host, "host", "", "http, https: Host header and TLS server `name`; without it, certificates are not verified")
	flags.StringVar(&f.path, "path", "", "http, https: `path` to get (new checks: /)")
	flags.Uint32Var(&f.status, "status", 0, "http, https: expected status; 0: 200 to 399")
	flags.StringVar(&f.body, "body", "", "http, https, udp: `text` that the answer must contain")
	flags.StringVar(&f.send, "send", "", "udp: `payload` of the probe")
	completeFlag(cmd, "type", checkTypes()...)
}

func (f *checkFlags) fields(cmd *cobra.Command, name string) *steelyardv1.CheckFields {
	return &steelyardv1.CheckFields{
		Name:                name,
		Type:                given(cmd, "type", f.kind),
		Port:                given(cmd, "port", f.port),
		IntervalNanoseconds: given(cmd, "interval", int64(f.interval)),
		TimeoutNanoseconds:  given(cmd, "timeout", int64(f.timeout)),
		Rise:                given(cmd, "rise", f.rise),
		Fall:                given(cmd, "fall", f.fall),
		Jitter:              given(cmd, "jitter", f.jitter),
		Host:                given(cmd, "host", f.host),
		Path:                given(cmd, "path", f.path),
		Status:              given(cmd, "status", f.status),
		Body:                given(cmd, "body", f.body),
		Send:                given(cmd, "send", f.send),
	}
}

func checkTypes(more ...string) []string {
	return append([]string{"tcp", "http", "https", "udp", "icmp"}, more...)
}

func newCheckAdd(a *app) *cobra.Command {
	var f checkFlags
	var expect uint64
	cmd := verb("add POOL [NAME] [--type TYPE] [--port PORT] ...", "Add a check to a pool", 1, 2, func(cmd *cobra.Command, args []string) error {
		name := strings.Join(args[1:], "")
		fields := f.fields(cmd, name)
		if _, err := model.ParseCheckType(name); err == nil && fields.Type == nil {
			fields.Type = &name
		}
		shown := name
		if shown == "" {
			if shown = fields.GetType(); shown == "" {
				shown = model.CheckTCP.String()
			}
		}
		mutation := &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddCheck{AddCheck: &steelyardv1.CheckInPool{Pool: args[0], Check: fields}}}
		return a.change(cmd.Context(), expect, fmt.Sprintf("added check %s to pool %s", shown, args[0]), mutation)
	})
	cmd.Long = `Add a check to a pool, named after its type unless NAME says otherwise. A backend
is up while all checks of its pool pass.`
	cmd.Example = `  steelyard check add web http --port 80 --path /healthz --interval 1s --fall 2
  steelyard check add web tls --type https --port 443 --host www.example.org --status 200
  steelyard check add dns --type udp --port 53 --send ping --body pong`
	f.register(cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func newCheckSet(a *app) *cobra.Command {
	var f checkFlags
	var expect uint64
	cmd := verb("set POOL NAME [--interval TIME] ...", "Change a check", 2, 2, func(cmd *cobra.Command, args []string) error {
		if !anyGiven(cmd) {
			return usage(cmd, "nothing to change: give a flag")
		}
		mutation := &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetCheck{SetCheck: &steelyardv1.CheckInPool{Pool: args[0], Check: f.fields(cmd, args[1])}}}
		return a.change(cmd.Context(), expect, fmt.Sprintf("changed check %s of pool %s", args[1], args[0]), mutation)
	})
	cmd.Long = `Change what is given of a check, and nothing else. Another type makes what is
asked of the probe (host, path, status, body, send) start from the defaults.`
	f.register(cmd)
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeChecks)
	return cmd
}

func newCheckRemove(a *app) *cobra.Command {
	var expect uint64
	cmd := verb("remove POOL NAME", "Remove a check; without any, backends count as up", 2, 2, func(cmd *cobra.Command, args []string) error {
		mutation := &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveCheck{RemoveCheck: &steelyardv1.CheckInPool{
			Pool: args[0], Check: &steelyardv1.CheckFields{Name: args[1]},
		}}}
		return a.change(cmd.Context(), expect, fmt.Sprintf("removed check %s of pool %s", args[1], args[0]), mutation)
	})
	cmd.Aliases = []string{"rm", "delete"}
	registerExpect(cmd, &expect)
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeChecks)
	return cmd
}

func newCheckList(a *app) *cobra.Command {
	cmd := verb("list [POOL]", "List the checks of one pool or of all", 0, 1, func(cmd *cobra.Command, args []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		pools, err := o.pools(strings.Join(args, ""))
		if err != nil {
			return err
		}
		all := []checkView{}
		for _, p := range pools {
			all = append(all, o.view(p).Checks...)
		}
		return a.print(all, func(w io.Writer) { printChecks(w, all) })
	})
	cmd.Aliases = []string{"ls"}
	cmd.ValidArgsFunction = a.completeArgs(completePools)
	return cmd
}

func printChecks(w io.Writer, checks []checkView) {
	t := newTable(w, "POOL", "CHECK", "TYPE", "PORT", "INTERVAL", "TIMEOUT", "RISE", "FALL", "ASKS")
	for _, c := range checks {
		port := "backend's"
		if c.Port != 0 {
			port = fmt.Sprint(c.Port)
		} else if c.Type == model.CheckICMP.String() {
			port = ""
		}
		interval := c.Interval
		if c.Jitter != 0 {
			interval += fmt.Sprintf("±%d%%", c.Jitter)
		}
		t.row(c.Pool, c.Name, c.Type, port, interval, c.Timeout, c.Rise, c.Fall, c.asks())
	}
	t.flush()
}

// asks says what a probe sends and expects, in the words of the flags.
func (c checkView) asks() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("host", c.Host)
	add("path", c.Path)
	if c.Status != 0 {
		add("status", fmt.Sprint(c.Status))
	}
	for _, payload := range [][2]string{{"send", c.Send}, {"body", c.Body}} {
		if payload[1] != "" {
			add(payload[0], fmt.Sprintf("%q", payload[1]))
		}
	}
	return strings.Join(parts, ", ")
}

// foundView is a check with what it found of each backend.
type foundView struct {
	checkView
	Results []foundResult `json:"results"`
}

type foundResult struct {
	Backend string `json:"backend"`
	resultView
}

func newCheckShow(a *app) *cobra.Command {
	cmd := verb("show POOL NAME", "Show a check and what it found of each backend", 2, 2, func(cmd *cobra.Command, args []string) error {
		o, err := a.observe(cmd.Context())
		if err != nil {
			return err
		}
		want, err := o.desired.Check(args[0], args[1])
		if err != nil {
			return err
		}
		pool, err := o.pool(args[0])
		if err != nil {
			return err
		}
		view := foundView{checkView: viewCheck(args[0], *want), Results: []foundResult{}}
		for _, b := range pool.Backends {
			for _, c := range b.Checks {
				if c.Name == args[1] {
					view.Results = append(view.Results, foundResult{b.String(), viewResult(c)})
				}
			}
		}
		return a.print(view, func(w io.Writer) { a.printFound(w, view) })
	})
	cmd.ValidArgsFunction = a.completeArgs(completePools, completeChecks)
	return cmd
}

func (a *app) printFound(w io.Writer, view foundView) {
	printChecks(w, []checkView{view.checkView})
	fmt.Fprintln(w)
	t := newTable(w, "BACKEND", "HEALTH", "RESULT", "DURATION", "LAST PROBE", "DETAIL", "LAST CHANGE")
	for _, r := range view.Results {
		duration := time.Duration(r.DurationSeconds * float64(time.Second))
		t.row(r.Backend, strings.TrimSpace(r.Health+" "+ago(a.Now(), r.Since)), r.Result, duration, suffixed(ago(a.Now(), r.Checked), " ago"), r.Detail, r.Reason)
	}
	t.flush()
}
