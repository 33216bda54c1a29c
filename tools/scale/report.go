package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

//go:embed scale.md.tmpl
var pageText string

// report is every case with what was measured of it.
type report struct {
	measure.Machine
	// Load is how many processes have wanted to run of late, on average: the kernel's
	// three load averages, as the benchmarks ended.
	Load string
	Runs int
	rows []row
}

// row is a case; its exported fields are those of the JSON file.
type row struct {
	Case    string  `json:"case"`
	Unit    string  `json:"unit"`
	Median  float64 `json:"median"`
	Minimum float64 `json:"minimum"`
	Maximum float64 `json:"maximum"`
	target  target
}

// newReport looks every case up. It fails if one was not measured.
func newReport(m *measured) (*report, error) {
	r := &report{Machine: measure.ThisMachine(-1), Load: load()}
	r.CPU = m.cpu // of the machine that the benchmarks were on
	for _, c := range cases() {
		runs := slices.Clone(m.figures[c.benchmark][c.metric])
		if len(runs) == 0 {
			return nil, fmt.Errorf("case %q: the input has no figure %q of Benchmark%s; run all benchmarks, with make scale", c.name, c.metric, c.benchmark)
		}
		for i := range runs {
			runs[i] *= c.factor
		}
		spread := measure.NewSpread(runs)
		if r.Runs == 0 || len(runs) < r.Runs {
			r.Runs = len(runs)
		}
		r.rows = append(r.rows, row{c.name, c.unit, spread.Median, spread.Min, spread.Max, c.target})
	}
	return r, nil
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	words := strings.Fields(string(text))
	if err != nil || len(words) < 3 {
		return "unknown"
	}
	return strings.Join(words[:3], ", ")
}

// table is the report's rows in Markdown.
func (r *report) table() string {
	var b strings.Builder
	b.WriteString("| case | unit | median | minimum | maximum | target | met |\n|---|---|--:|--:|--:|--:|---|\n")
	for _, row := range r.rows {
		wanted, met := row.verdict()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", row.Case, row.Unit,
			figure(row.Median), figure(row.Minimum), figure(row.Maximum), wanted, met)
	}
	return b.String()
}

// verdict is the target in words, and whether the median meets it.
func (r *row) verdict() (wanted, met string) {
	if r.target == (target{}) {
		return "", ""
	}
	wanted, met = "≤ "+figure(r.target.bound), "no"
	if r.target.floor {
		wanted = "≥ " + figure(r.target.bound)
	}
	if r.target.met(r.Median) {
		met = "yes"
	}
	return wanted, met
}

// figure renders a number with about three digits.
func figure(n float64) string {
	switch {
	case n >= 100:
		return fmt.Sprintf("%.0f", n)
	case n >= 10:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.2f", n)
}

// save writes the rows as JSON, one to a line.
func (r *report) save(file string) error { return measure.SaveJSON(file, r.rows) }

// savePage writes the report as a page.
func (r *report) savePage(file string) error {
	page, err := measure.Page(pageText, struct {
		*report
		Table string
	}{r, r.table()})
	if err != nil {
		return err
	}
	return os.WriteFile(file, page, 0o644)
}
