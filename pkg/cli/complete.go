package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// completionTime is how long a shell waits for the daemon at most.
const completionTime = time.Second

// completer returns the words that may come next after the arguments so far.
type completer func(s *model.State, args []string) []string

// completeArgs completes each argument with its completer.
func (a *app) completeArgs(completers ...completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(completers) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.ask(cmd, completers[len(args)], args), cobra.ShellCompDirectiveNoFileComp
	}
}

// ask runs a completer over the daemon's state; without a daemon there are no words.
func (a *app) ask(cmd *cobra.Command, c completer, args []string) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	client := a.client()
	defer client.Close()
	state, _, err := client.Get(ctx)
	if err != nil {
		return nil
	}
	return c(&state, args)
}

func completeVIPs(s *model.State, _ []string) []string {
	return views(s.VIPs, func(v model.VIP) string { return v.Name + "\t" + v.Service() })
}

func completeEndpoints(s *model.State, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	v, err := s.VIP(args[0])
	if err != nil {
		return nil
	}
	return views(v.Endpoints, model.Endpoint.String)
}

func completePools(s *model.State, _ []string) []string {
	return views(s.Pools, func(p model.Pool) string { return p.Name + "\t" + plural(len(p.Backends), "backend") })
}

func completeBackends(s *model.State, args []string) []string {
	p, err := s.Pool(args[0])
	if err != nil {
		return nil
	}
	return views(p.Backends, func(b model.Backend) string { return b.String() + "\t" + b.State.String() })
}

func completeChecks(s *model.State, args []string) []string {
	p, err := s.Pool(args[0])
	if err != nil {
		return nil
	}
	return views(p.Checks, func(c model.Check) string { return c.Name + "\t" + c.Type.String() })
}

// completeFlag offers fixed words for a flag; none keeps the shell from offering files.
func completeFlag(cmd *cobra.Command, flag string, words ...string) {
	mustComplete(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
}

// completeFlagFrom offers words from the daemon.
func (a *app) completeFlagFrom(cmd *cobra.Command, flag string, c completer) {
	mustComplete(cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.ask(cmd, c, args), cobra.ShellCompDirectiveNoFileComp
	}))
}

// mustComplete: cobra refuses a flag that the command does not have, or has
// completion for already. Both are mistakes in this package.
func mustComplete(err error) {
	if err != nil {
		panic(err)
	}
}
