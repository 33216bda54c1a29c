package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// executedLimit is the most that Steelyard may execute for a packet of a case: an eighth
// more instructions than it did when the limit was set, and as many look-ups.
type executedLimit struct {
	testCase              string
	instructions, lookups float64
}

func executedLimits() []executedLimit {
	return []executedLimit{
		{"tcp4 dsr-ipip", 490, 7},
		{"tcp6 dsr-ipip", 515, 7},
		{"udp4 dsr-ipip", 470, 7},
		{"tcp4 dsr-l2", 430, 7},
		{"tcp4 dsr-gue", 530, 7},
		{"tcp4 dsr-ipip in flux", 620, 11},
		{"tcp4 dsr-ipip tracking always", 590, 9},
		{"tcp4 dsr-ipip new flows", 840, 13},
		{"tcp4 nat", 820, 9},
		{"tcp4 nat replies", 775, 7},
		{"tcp4 fullnat", 1080, 11},
		{"tcp4 fullnat replies", 785, 6},
		{"tcp4 fullnat new flows", 2020, 28},
		{"icmp4 error dsr-ipip", 850, 8},
		{"tcp4 not ours", 200, 2},
	}
}

// exceeded says in what a packet is above the limit.
func (l executedLimit) exceeded(by executed) error {
	above := func(what string, is, most float64) error {
		if is <= most {
			return nil
		}
		return fmt.Errorf("case %q: %g %s for a packet, at most %g are wanted; see executedLimits in check.go", l.testCase, is, what, most)
	}
	return errors.Join(above("instructions", by.Instructions, l.instructions), above("look-ups", by.Lookups, l.lookups))
}

// checkLimits prints what does not depend on the clock, and fails if the programs' sizes,
// or what they execute for packets of the cases, are above their limits.
func (s *suite) checkLimits(out io.Writer) error {
	if err := enterSpace(); err != nil {
		return err
	}
	above := []error{checkStructure(out)}
	fmt.Fprintln(out)
	rep := &report{Programs: s.infos()}
	for _, l := range executedLimits() {
		i := slices.IndexFunc(s.cases, func(c testCase) bool { return c.name == l.testCase })
		if i < 0 {
			continue
		}
		c := &s.cases[i]
		all, err := execute(*c, s.programs)
		if err != nil {
			return fmt.Errorf("case %q: %w", c.name, err)
		}
		rep.Rows = append(rep.Rows, row{Case: c.name, Flows: c.fewest(), Fresh: c.fresh(), Executed: all})
		above = append(above, l.exceeded(all[nameSteelyard]))
	}
	return errors.Join(rep.printExecuted(out), errors.Join(above...))
}
