package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"
)

//go:embed scale.md.tmpl
var pageText string

// report is every case with what was measured of it.
type report struct {
	CPU, Kernel string
	// Load is how many processes have wanted to run of late, on average: the kernel's
	// three load averages, as the benchmarks ended.
	Load       string
	CPUs, Runs int
	rows       []row
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
	r := &report{CPU: m.cpu, CPUs: runtime.NumCPU(), Kernel: kernel(), Load: load()}
	for _, c := range cases() {
		runs := slices.Clone(m.figures[c.benchmark][c.metric])
		if len(runs) == 0 {
			return nil, fmt.Errorf("case %q: the input has no figure %q of Benchmark%s; run all benchmarks, with make scale", c.name, c.metric, c.benchmark)
		}
		for i := range runs {
			runs[i] *= c.factor
		}
		slices.Sort(runs)
		if r.Runs == 0 || len(runs) < r.Runs {
			r.Runs = len(runs)
		}
		r.rows = append(r.rows, row{c.name, c.unit, median(runs), runs[0], runs[len(runs)-1], c.target})
	}
	return r, nil
}

// median of numbers in order, of which there is one at least.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func kernel() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
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
func (r *report) save(file string) error {
	var lines []string
	for _, row := range r.rows {
		line, err := json.Marshal(row)
		if err != nil {
			return err
		}
		lines = append(lines, "  "+string(line))
	}
	return os.WriteFile(file, []byte("[\n"+strings.Join(lines, ",\n")+"\n]\n"), 0o644)
}

// savePage writes the report as a page.
func (r *report) savePage(file string) error {
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	var b strings.Builder
	if err := page.Execute(&b, struct {
		*report
		Table string
	}{r, r.table()}); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
