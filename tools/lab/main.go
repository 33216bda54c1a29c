// Command lab shows Steelyard at work in a lab of network namespaces on this
// machine, and leaves the lab up for those who want to play in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const usage = `Usage: lab [flags] COMMAND

  demo           build a lab, show what Steelyard does, take the lab down
  up             build the lab and leave it up
  shell          build the lab, open a shell to play in it, take it down on exit
  exec HOST CMD  run a command on a host of the lab: client, router, switch,
                 balancer, backend1, backend2 ...
  down           take the lab down
  down --all     take every lab of this machine down, those of tests too

Flags:
`

// world is what a command may touch.
type world struct {
	in       io.Reader
	out, err io.Writer
	binary   string // path of the steelyard binary
	mode     string // of the services, see [topicOf]
	options  lab.Options
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, &world{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.Args[1:])
	stop()
	// The status of a command that `exec` ran is ours; other errors only wrap one.
	exit, ran := err.(*exec.ExitError)
	switch {
	case err == nil:
	case ran && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w *world, args []string) error {
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.SetOutput(w.err)
	flags.Usage = func() {
		fmt.Fprint(w.err, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&w.binary, "binary", "bin/steelyard", "the steelyard `file` to run")
	flags.StringVar(&w.options.Name, "name", "steelyard", "`name` of the lab, the first part of its namespaces' names")
	flags.IntVar(&w.options.Backends, "backends", lab.DefaultBackends, "`number` of backends")
	flags.IntVar(&w.options.Interfaces, "interfaces", 1, "`number` of the balancer's interfaces, 1 or 2")
	flags.StringVar(&w.mode, "mode", "dsr", "forwarding `mode` of the services: "+modes)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return errors.New("see lab --help")
	}
	command, rest := flags.Arg(0), flags.Args()
	commands := map[string]func(context.Context, *world, []string) error{
		"demo": demo, "up": up, "shell": shell, "exec": execute, "down": down,
	}
	do, known := commands[command]
	if !known {
		flags.Usage()
		return fmt.Errorf("%q is no command", command)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("making network namespaces and attaching XDP programs needs root; run it with sudo: sudo %s", strings.Join(os.Args, " "))
	}
	return do(ctx, w, rest[1:])
}

// preflight makes sure that what the lab needs is there before it is built.
func (w *world) preflight() error {
	var missing []string
	for _, tool := range []string{"ip", "ethtool", "nsenter", "nginx", "curl"} {
		_, err := exec.LookPath(tool)
		if err != nil {
			_, err = exec.LookPath(filepath.Join("/usr/sbin", tool))
		}
		if err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s not found; `tools/setup.sh lab` installs what is needed", strings.Join(missing, ", "))
	}
	path, err := filepath.Abs(w.binary)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(path); err != nil {
		return fmt.Errorf("no steelyard to run at %s: %w; `make build` builds it, --binary names another", path, err)
	}
	w.binary = path
	return nil
}

// up builds the lab and leaves it up.
func up(ctx context.Context, w *world, _ []string) error {
	s, err := newStory(ctx, w)
	if err != nil {
		return err
	}
	if err := s.setUp(); err != nil {
		return errors.Join(err, s.lab.Close())
	}
	hints(s)
	return nil
}

// execute runs a command on one host.
func execute(_ context.Context, w *world, args []string) error {
	if len(args) < 2 {
		return errors.New("exec: want a host and a command, such as: exec client ping 198.51.100.10")
	}
	l, err := lab.Open(w.options.Name)
	if err != nil {
		return err
	}
	host, err := l.Host(args[0])
	if err != nil {
		return err
	}
	cmd := host.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = w.in, w.out, w.err
	return cmd.Run()
}

// down takes one lab or all labs down.
func down(_ context.Context, w *world, args []string) error {
	names := []string{w.options.Name}
	if len(args) == 1 && strings.TrimLeft(args[0], "-") == "all" {
		var err error
		if names, err = lab.Names(); err != nil {
			return err
		}
	} else if len(args) > 0 {
		return fmt.Errorf("down: %q: want nothing or --all", args)
	}
	var errs []error
	for _, name := range names {
		l, err := lab.Open(name)
		if err == nil {
			err = l.Close()
		}
		if err == nil {
			fmt.Fprintln(w.out, name, "is down.")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
