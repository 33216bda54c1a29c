package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

// report is everything that was measured. Times are in nanoseconds per packet.
type report struct {
	Machine   measure.Machine
	Rounds    int
	Packets   uint32
	Programs  []programInfo
	Structure []programSize
	Rows      []row
}

// programInfo is a program and whether it is a load balancer.
type programInfo struct {
	Name     string
	Measured bool
}

// row is one case with one number of flows.
type row struct {
	Case  string
	Flows uint64
	// Fresh says that every packet began another flow.
	Fresh bool
	// Results by name of program, all with the generator's cost in them.
	Results map[string]measure.Spread
	// Executed by name of load balancer; of a case's rows, that with the fewest flows has it.
	Executed map[string]executed
}

// net is what a measured program costs by itself: without generator and tail call. It
// reports false if the case has no such program.
func (r *row) net(program string) (float64, bool) {
	result, ok := r.Results[program]
	return result.Median - r.Results[nameTail].Median, ok
}

// overFloor is what is left of net without the writing that every program must do.
// It reports false if the case has no floor.
func (r *row) overFloor(program string) (float64, bool) {
	net, measured := r.net(program)
	floor, ok := r.Results[nameFloor]
	return net - (floor.Median - r.Results[nameGenerator].Median), measured && ok
}

// ratio is what Steelyard costs net, by what the classic program does. It reports false
// if the case has no such program.
func (r *row) ratio() (float64, bool) {
	steelyard, ok := r.net(nameSteelyard)
	classic, other := r.net(nameClassic)
	return steelyard / classic, ok && other
}

// flows renders the number of flows.
func (r *row) flows() string {
	if r.Fresh {
		return "all new"
	}
	return fmt.Sprint(r.Flows)
}

// print writes the report as a table.
func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "Nanoseconds per packet on one core: median of %d rounds of %d packets (least - most).\n", r.Rounds, r.Packets)
	fmt.Fprintf(out, "%s, Linux %s, CPU %d of %d.\n\n", r.Machine.CPU, r.Machine.Kernel, r.Machine.PinnedTo, r.Machine.CPUs)
	if err := printSizes(out, r.Structure); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if err := r.printRows(out); err != nil {
		return err
	}
	_, err := io.WriteString(out, `
generator   the kernel's loop and the making of the frame; included in the four next to it
floor       generator, and writing the bytes that the mode requires, with constants
tail        generator, and a tail call of a program that only returns
steelyard   generator, tail call, and the packet path
classic     generator, tail call, and a program of the usual shape
net         a program alone: less tail
over floor  what deciding and counting cost: net, less what floor adds to generator
ratio       steelyard net, by classic net
`)
	if err != nil || !r.Counted() {
		return err
	}
	fmt.Fprintln(out)
	return r.printExecuted(out)
}

func (r *report) printRows(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heads := []string{"case", "flows"}
	for _, p := range r.Programs {
		heads = append(heads, p.Name)
		if p.Measured {
			heads = append(heads, "net", "over floor")
		}
	}
	fmt.Fprintln(table, strings.Join(append(heads, "ratio"), "\t"))
	for i := range r.Rows {
		fmt.Fprintln(table, strings.Join(r.cells(&r.Rows[i]), "\t"))
	}
	return table.Flush()
}

func (r *report) cells(row *row) []string {
	cells := []string{row.Case, row.flows()}
	for _, p := range r.Programs {
		cell := none
		if result, ok := row.Results[p.Name]; ok {
			cell = fmt.Sprintf("%.1f (%.1f - %.1f)", result.Median, result.Min, result.Max)
		}
		cells = append(cells, cell)
		if p.Measured {
			cells = append(cells, figure(1)(row.net(p.Name)), figure(1)(row.overFloor(p.Name)))
		}
	}
	return append(cells, figure(2)(row.ratio()))
}

// none stands where there is no figure.
const none = "-"

// figure renders a number, if there is one, with so many decimals.
func figure(decimals int) func(float64, bool) string {
	return func(n float64, ok bool) string {
		if !ok {
			return none
		}
		return fmt.Sprintf("%.*f", decimals, n)
	}
}

// result is a row of the JSON file: what a program took for one packet of a case, with
// the generator's cost in it, in nanoseconds, and what it executed, without the generator.
type result struct {
	Program string  `json:"program"`
	Case    string  `json:"case"`
	Flows   uint64  `json:"flows"`
	Median  float64 `json:"median"`
	Minimum float64 `json:"minimum"`
	Maximum float64 `json:"maximum"`
	// Executed is of load balancers, with the fewest of a case's flows.
	Executed *executed `json:"executed,omitempty"`
}

func (r *report) results() []result {
	var all []result
	for _, row := range r.Rows {
		for _, p := range r.Programs {
			s, ok := row.Results[p.Name]
			if !ok {
				continue
			}
			one := result{Program: p.Name, Case: row.Case, Flows: row.Flows, Median: s.Median, Minimum: s.Min, Maximum: s.Max}
			if e, ok := row.Executed[p.Name]; ok {
				one.Executed = &e
			}
			all = append(all, one)
		}
	}
	return all
}

// save writes the results as JSON, one to a line.
func (r *report) save(file string) error { return measure.SaveJSON(file, r.results()) }
