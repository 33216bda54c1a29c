package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/steelyard-lb/steelyard/tools/bench/execution"
)

// executed is what a load balancer executes for one packet, on average: instructions, and
// among them look-ups in maps and calls of other helpers. It does not depend on the clock.
type executed struct {
	Instructions float64 `json:"instructions"`
	Lookups      float64 `json:"lookups"`
	Calls        float64 `json:"calls"`
}

// newExecuted divides what packets have executed; a tenth is exact enough.
func newExecuted(sum execution.Counts, packets uint64) executed {
	each := func(n uint64) float64 { return math.Round(10*float64(n)/float64(packets)) / 10 }
	return executed{each(sum.Instructions), each(sum.Lookups), each(sum.Calls)}
}

// packetsCounted is on how many packets the averages are taken.
const packetsCounted = 1000

// execute gives the load balancers packets of a case, with the least of its numbers of
// flows, and returns by name what they execute for one. All is as when their time is
// measured, but for what counts.
func execute(c testCase, programs []program) (all map[string]executed, err error) {
	counter := execution.NewCounter()
	defer func() { err = errors.Join(err, counter.Close()) }()
	c.Rewrite = counter.Rewrite
	programs = slices.DeleteFunc(slices.Clone(programs), func(p program) bool { return !p.measured() })
	// Before a table is full, flows take no other's place.
	before := max(1, uint32(4*c.Room))
	flows := c.fewest()
	if c.fresh() {
		flows = 2 * uint64(before+packetsCounted)
	}
	r, err := newRig(c, programs, flows)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := errors.Join(r.setFlows(flows), r.warm(programs, uint32(flows))); err != nil {
		return nil, err
	}
	all = map[string]executed{}
	for i := range programs {
		p := &programs[i]
		if p.entry(r) == nil {
			continue
		}
		if _, err := r.turn(p, before); err != nil {
			return nil, fmt.Errorf("program %s: %w", p.name, err)
		}
		if all[p.name], err = r.execute(p, counter); err != nil {
			return nil, fmt.Errorf("program %s: %w", p.name, err)
		}
	}
	return all, nil
}

// execute gives a program its turn, and returns what it executes for one packet.
func (r *rig) execute(p *program, counter *execution.Counter) (executed, error) {
	before, err := counter.Counts()
	if err != nil {
		return executed{}, err
	}
	t, err := r.turn(p, packetsCounted)
	if err != nil {
		return executed{}, err
	}
	after, err := counter.Counts()
	if err != nil {
		return executed{}, err
	}
	return newExecuted(after.Minus(before), t.packets), nil
}

// Counted reports whether the report has what packets execute.
func (r *report) Counted() bool {
	return slices.ContainsFunc(r.Rows, func(row row) bool { return row.Executed != nil })
}

func (r *report) printExecuted(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	heads, rows := r.executed()
	for _, cells := range append([][]string{heads}, rows...) {
		fmt.Fprintln(table, strings.Join(cells, "\t")+"\t")
	}
	return table.Flush()
}

// ExecutedTable is what packets execute, in Markdown.
func (r *report) ExecutedTable() string {
	heads, rows := r.executed()
	rule := append([]string{"---"}, slices.Repeat([]string{"--:"}, len(heads)-1)...)
	var b strings.Builder
	for _, cells := range append([][]string{heads, rule}, rows...) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

// executed renders what packets execute.
func (r *report) executed() (heads []string, rows [][]string) {
	heads = []string{"case", "flows"}
	for _, p := range r.Programs {
		if p.Measured {
			heads = append(heads, p.Name+": instructions", "look-ups", "other calls")
		}
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Executed == nil {
			continue
		}
		cells := []string{row.Case, row.flows()}
		for _, p := range r.Programs {
			if e, ok := row.Executed[p.Name]; ok {
				cells = append(cells, fmt.Sprint(e.Instructions), fmt.Sprint(e.Lookups), fmt.Sprint(e.Calls))
			} else if p.Measured {
				cells = append(cells, none, none, none)
			}
		}
		rows = append(rows, cells)
	}
	return heads, rows
}
