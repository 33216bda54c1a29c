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
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	suite
	json, page string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := s.preflight(); err != nil {
		return err
	}
	report, err := s.run(ctx)
	if err != nil {
		return err
	}
	if s.json != "" {
		if err := report.save(s.json); err != nil {
			return fmt.Errorf("-json: %w", err)
		}
	}
	if s.page != "" {
		if err := report.savePage(s.page); err != nil {
			return fmt.Errorf("-page: %w", err)
		}
	}
	return report.print(stdout)
}

func parse(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{suite: suite{forwarders: forwarders(), workloads: workloads(), paths: paths(), progress: stderr,
		flows: []uint64{1, 100_000, 1_000_000}}}
	flags := flag.NewFlagSet("throughput", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "a short run: few rounds, short turns")
	flags.StringVar(&s.binary, "steelyard", "bin/steelyard", "the `FILE` of the steelyard that balances")
	flags.StringVar(&s.json, "json", "", "write the results to this `FILE`, as JSON, as well")
	flags.StringVar(&s.page, "page", "", "write the report to this `FILE`, as Markdown, as well")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q; throughput -h lists the flags", flags.Arg(0))
	}
	s.rounds, s.turn, s.webRounds, s.webTurn = 5, 400*time.Millisecond, 5, 2*time.Second
	if *quick {
		s.rounds, s.turn, s.webRounds, s.webTurn = 3, 100*time.Millisecond, 1, time.Second
	}
	return s, nil
}

// preflight looks for what is needed before anything is measured.
func (s *suite) preflight() error {
	var err error
	if s.binary, err = filepath.Abs(s.binary); err != nil {
		return fmt.Errorf("-steelyard: %w", err)
	}
	if _, err := os.Stat(s.binary); err != nil {
		return fmt.Errorf("-steelyard: %w; make build makes it", err)
	}
	for _, program := range []string{"wrk", "nginx", "haproxy"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w; make setup installs it", err)
		}
	}
	return nil
}
