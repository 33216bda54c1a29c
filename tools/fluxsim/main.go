// Command fluxsim replays churn over a fleet of balancers and counts the
// connections that each scheme of choosing backends breaks. It builds tables with
// pkg/maglev and follows the rules of pkg/flux, the packet path's own. See
// docs/flux-simulation.md.
//
//	fluxsim                       the literature's workload, a tenth of it
//	fluxsim -scale 1              the whole of it
//	fluxsim -workload design      smaller fleets, one churn after the other
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if err := run(os.Stdout, os.Stderr, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fluxsim:", err)
		os.Exit(1)
	}
}

func run(out, problems io.Writer, args []string) error {
	flags := flag.NewFlagSet("fluxsim", flag.ContinueOnError)
	flags.SetOutput(problems)
	name := flags.String("workload", "literature", "`name` of what to replay: literature or design")
	scale := flags.Float64("scale", 0.1, "`share` of the workload's connections to simulate, above 0, at most 1")
	seed := flags.Uint64("seed", 1, "`number` from which all that is random follows")
	idle := flags.Duration("idle", time.Minute, "`time` after which a silent connection is forgotten, at least "+longestGap.String())
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return errors.New("see -help")
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("%q is no flag; see -help", flags.Arg(0))
	case !(*scale > 0 && *scale <= 1):
		return fmt.Errorf("-scale is %v, want above 0 and at most 1", *scale)
	case *idle < longestGap:
		return fmt.Errorf("-idle is %v, but connections are silent for up to %v", *idle, longestGap)
	}
	plan, err := workloads(*name, *scale, *seed)
	if err != nil {
		return err
	}
	for _, w := range plan {
		if err := report(out, w, *idle); err != nil {
			return err
		}
	}
	return nil
}

func workloads(name string, scale float64, seed uint64) ([]workload, error) {
	switch name {
	case "literature":
		return []workload{literature(scale, seed)}, nil
	case "design":
		return design(scale, seed), nil
	}
	return nil, fmt.Errorf("there is no workload %q, want literature or design", name)
}

// report plays a workload and prints a line for each scheme.
func report(out io.Writer, w workload, idle time.Duration) error {
	prefix := ""
	if w.churn != "" {
		prefix = "churn=" + w.churn + " "
	}
	results, err := play(w, idle)
	if err != nil {
		return err
	}
	for _, r := range results {
		if _, err := fmt.Fprintf(out, "%sscheme=%s connections=%d broken=%d tracked_peak=%d\n",
			prefix, r.scheme, w.connections, r.broken, r.trackedPeak); err != nil {
			return err
		}
	}
	return nil
}
