package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	suite
	json, page string
	check      bool
}

func run(args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if s.check {
		return s.checkLimits(stdout)
	}
	report, err := s.run()
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
	s := &settings{suite: suite{programs: programs(), progress: stderr}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("cases", "", "only cases whose names match this `REGEXP`")
	flows := flags.String("flows", "", "numbers of flows instead of the cases' own, `N,N...`")
	quick := flags.Bool("quick", false, "a short run: one flow and 100000, fewer rounds and packets unless they are given, and nothing but time")
	rounds := flags.Int("rounds", 0, "rounds in which every program takes a turn (default 7, quick 3)")
	packets := flags.Uint("packets", 0, "packets of a turn (default 500000, quick 100000)")
	flags.IntVar(&s.cpu, "cpu", -1, "CPU to run on; -1 is the last one allowed")
	flags.StringVar(&s.json, "json", "", "write the results to this `FILE`, as JSON, as well")
	flags.StringVar(&s.page, "page", "", "write the report to this `FILE`, as Markdown, as well, and its plot beside it as SVG")
	flags.BoolVar(&s.check, "check", false, "measure no time; fail if the programs, or what they execute for a packet, have grown above their limits")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q; bench -h lists the flags", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	s.rounds, s.packets, s.executed = 7, 500_000, !*quick
	if *quick {
		s.rounds, s.packets = 3, 100_000
		if !given["flows"] {
			*flows = "1,100000"
		}
	}
	if given["rounds"] {
		s.rounds = *rounds
	}
	if given["packets"] {
		s.packets = uint32(min(*packets, math.MaxUint32))
	}
	if s.rounds < 1 || s.packets < 1 || s.packets > maxPackets {
		return nil, fmt.Errorf("-rounds must be at least 1, -packets from 1 to %d", maxPackets)
	}
	var err error
	s.cases, err = choose(cases(), *only, *flows)
	return s, err
}

// maxPackets of a turn, so that no turn takes minutes.
const maxPackets = 100_000_000

// choose narrows the cases down to what the flags say.
func choose(all []testCase, pattern, flows string) ([]testCase, error) {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-cases: %w", err)
	}
	var numbers []uint64
	if flows != "" {
		for _, s := range strings.Split(flows, ",") {
			n, err := strconv.ParseUint(s, 10, 32)
			if err != nil || n == 0 || n > maxFlows {
				return nil, fmt.Errorf("-flows: %q is not a number from 1 to %d", s, maxFlows)
			}
			numbers = append(numbers, n)
		}
	}
	known := make([]string, len(all))
	for i := range all {
		known[i] = all[i].name
		if numbers != nil && !all[i].fresh() {
			all[i].flows = numbers
		}
	}
	chosen := slices.DeleteFunc(all, func(c testCase) bool { return !wanted.MatchString(c.name) })
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-cases: no case's name matches %q; there are: %s", pattern, strings.Join(known, ", "))
	}
	return chosen, nil
}

// maxFlows is for how many the sources of fullnat can have ports.
const maxFlows = 16_000_000
