// Package cli is the steelyard command: nouns, then verbs, over the API of a
// daemon. What it needs of the world is injected, so that tests run it as it is.
package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/steelyard-lb/steelyard/pkg/api"
)

// DefaultSocket is where a daemon listens unless told otherwise, and
// SocketVariable the environment variable that says so to the other commands.
const (
	DefaultSocket  = "/run/steelyard/api.sock"
	SocketVariable = "STEELYARD_SOCKET"
)

// World is everything that a command touches.
type World struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Args are the arguments, without the program's name.
	Args    []string
	Getenv  func(string) string
	Now     func() time.Time
	After   func(time.Duration) <-chan time.Time
	Version string
	// Daemon and Backend are `steelyard daemon` and `steelyard backend --vip ...`;
	// they return when the context ends.
	Daemon  func(context.Context, DaemonOptions) error
	Backend func(context.Context, BackendOptions) error
	// Detach is `steelyard detach`: it takes the program off all interfaces and
	// removes the pins. No daemon listened on the socket just before.
	Detach func(context.Context, DetachOptions) error
}

// Run runs one command and returns the process's exit code; see the codes in
// errors.go, or in `steelyard --help`.
func Run(ctx context.Context, w World) int {
	root := newRoot(&app{World: w})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintf(w.Stderr, "steelyard: %s\n", line)
	}
	return exitCode(err)
}

// app is a World with the values of the flags that every command has.
type app struct {
	World
	socket string
	output string
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "steelyard",
		Short: "A layer-4 load balancer on XDP",
		Long: `A layer-4 load balancer on XDP.

A VIP is what clients connect to: addresses and ports of a protocol. It is served
by a pool: backends that share the traffic by weight, and the health checks that
decide which of them get any. From nothing to a balanced service:

  steelyard daemon --interface eth1
  steelyard vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11

Exit codes:
  0  done
  1  failed
  2  wrong usage: an unknown command or flag, a missing argument
  3  not found: no VIP, pool, backend, check or source list of that name
  4  conflict: the name is taken, it is still in use, the desired state is no
     longer at the expected revision, or a daemon is still running
  5  an invalid value
  6  no daemon can be reached

With -o json or -o yaml every command prints for programs: the names of the fields
are stable, times are RFC 3339, counters count since the data plane was loaded.`,
		Args:              cobra.ArbitraryArgs,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return checkOutput(a.output) },
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	root.SetArgs(a.Args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", "", fmt.Sprintf("unix `path` of the daemon's API (default $%s, or %s)", SocketVariable, DefaultSocket))
	flags.StringVarP(&a.output, "output", "o", "table", "print as table, json or yaml")
	completeFlag(root, "output", outputs()...)
	root.AddCommand(newVIP(a), newPool(a), newBackend(a), newCheck(a), newSourceList(a), newStatus(a), newDaemon(a), newDetach(a), newVersion(a))
	return root
}

// socketGiven is the socket that flag or environment name, or "".
func (a *app) socketGiven() string {
	if a.socket != "" {
		return a.socket
	}
	return a.Getenv(SocketVariable)
}

func (a *app) socketPath() string {
	if path := a.socketGiven(); path != "" {
		return path
	}
	return DefaultSocket
}

func (a *app) client() *api.Client { return api.NewClient(a.socketPath()) }

// noun is a command that only has verbs.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return usage(cmd, "say what to do: %s", strings.Join(verbNames(cmd), ", "))
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// verb is a command that does something; use begins with its name. Its arguments
// are from least to most many; most < 0 means no limit.
func verb(use, short string, least, most int, run func(*cobra.Command, []string) error) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) < least:
				return usage(cmd, "missing an argument; want: %s", cmd.UseLine())
			case most >= 0 && len(args) > most:
				return usage(cmd, "unexpected argument %q; want: %s", args[most], cmd.UseLine())
			}
			return nil
		},
		RunE:              run,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
