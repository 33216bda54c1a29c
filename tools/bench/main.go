package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
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

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	only := flags.String("case", "", "measure only cases with this `TEXT` in their name")
	flows := flags.String("flows", "", "numbers of flows instead of the cases' own, `N,N...`")
	rounds := flags.Int("rounds", 7, "rounds in which every program takes a turn")
	packets := flags.Uint("packets", 1_000_000, "packets of a turn")
	cpu := flags.Int("cpu", -1, "CPU to run on; -1 is the last one allowed")
	file := flags.String("json", "", "write the report to this `FILE`, as JSON, as well")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; bench -h lists the flags", flags.Arg(0))
	}
	if *rounds < 1 || *packets < 1 || *packets > math.MaxUint32 {
		return errors.New("-rounds and -packets must be at least 1, -packets less than 1<<32")
	}
	chosen, err := choose(cases(), *only, *flows)
	if err != nil {
		return err
	}
	s := suite{cases: chosen, programs: programs(), rounds: *rounds, packets: uint32(*packets), cpu: *cpu}
	report, err := s.run()
	if err != nil {
		return err
	}
	if *file != "" {
		if err := report.save(*file); err != nil {
			return fmt.Errorf("-json: %w", err)
		}
	}
	return report.print(stdout)
}

// choose narrows the cases down to what the flags say.
func choose(all []testCase, text, flows string) ([]testCase, error) {
	var numbers []uint64
	if flows != "" {
		for _, s := range strings.Split(flows, ",") {
			n, err := strconv.ParseUint(s, 10, 32)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("-flows: %q is not a number from 1 to %d", s, uint32(math.MaxUint32))
			}
			numbers = append(numbers, n)
		}
	}
	known := make([]string, len(all))
	for i := range all {
		known[i] = all[i].name
		if numbers != nil {
			all[i].flows = numbers
		}
	}
	chosen := slices.DeleteFunc(all, func(c testCase) bool { return !strings.Contains(c.name, text) })
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-case: no case with %q in its name; there are: %s", text, strings.Join(known, ", "))
	}
	return chosen, nil
}
