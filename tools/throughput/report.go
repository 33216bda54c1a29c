package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

// The units of figures.
const (
	unitPackets      = "packets/s"
	unitRequests     = "requests/s"
	unitConnections  = "connections/s"
	unitBytes        = "MiB/s"
	unitMicroseconds = "microseconds"
)

// report is everything that was measured.
type report struct {
	Machine measure.Machine
	// Rounds and Turn are those of packets, WebRounds and WebTurn those of HTTP.
	Rounds, WebRounds int
	Turn, WebTurn     time.Duration
	// Batch is how many frames are made at once, Connections how many the client has.
	Batch, Connections int
	Packets, Web       []row
}

// row is one program's figure in one case.
type row struct {
	Case, Program string
	// Cores that did the work.
	Cores int
	Unit  string
	measure.Spread
	// Lost is the largest share of frames that a turn lost.
	Lost float64
}

// result is a row of the JSON file.
type result struct {
	Case    string  `json:"case"`
	Program string  `json:"program"`
	Cores   int     `json:"cores"`
	Unit    string  `json:"unit"`
	Median  float64 `json:"median"`
	Minimum float64 `json:"minimum"`
	Maximum float64 `json:"maximum"`
}

func (r *report) rows() []row { return slices.Concat(r.Packets, r.Web) }

// save writes the results as JSON, one to a line.
func (r *report) save(file string) error {
	var all []result
	for _, row := range r.rows() {
		all = append(all, result{row.Case, row.Program, row.Cores, row.Unit, row.Median, row.Min, row.Max})
	}
	return measure.SaveJSON(file, all)
}

// base is the program whose figure others are set in proportion to.
func base(program string, unit string) bool {
	return program == sendsBack && unit == unitPackets || program == noBalancer && unit != unitPackets
}

// ratio is a row's figure by that of the base in the same case on as many cores.
func (r *report) ratio(of *row) float64 {
	for _, row := range r.rows() {
		if row.Case == of.Case && row.Cores == of.Cores && base(row.Program, row.Unit) {
			return of.Median / row.Median
		}
	}
	return 0
}

// print writes the report as a table.
func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %d CPUs, Linux %s. Medians (least - most).\n\n", r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "case\tprogram\tcores\tfigure\tunit\tratio")
	for _, row := range r.rows() {
		fmt.Fprintf(table, "%s\t%s\t%d\t%.0f (%.0f - %.0f)\t%s\t%.3f\n", row.Case, row.Program, row.Cores,
			row.Median, row.Min, row.Max, row.Unit, r.ratio(&row))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\nratio  by "+sendsBack+" (packets) or "+noBalancer+" (http) in the same case\n")
	return err
}
