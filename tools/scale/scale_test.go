package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// output is what go test prints when every case is measured at 1, 3 and 2 of its
// unit, but for one benchmark.
func output(without string) string {
	var b strings.Builder
	b.WriteString("goos: linux\ncpu: A Processor\n")
	for _, c := range cases() {
		if c.benchmark == without {
			continue
		}
		for _, n := range []float64{1, 3, 2} {
			fmt.Fprintf(&b, "Benchmark%s-2 \t 10\t %g %s\n", c.benchmark, n/c.factor, c.metric)
		}
	}
	b.WriteString("PASS\n")
	return b.String()
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	page, data := filepath.Join(dir, "scale.md"), filepath.Join(dir, "scale.json")
	if err := run([]string{"-page", page, "-json", data}, strings.NewReader(output("")), io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"A Processor", "| memory of a flow-table entry | bytes | 2.00 | 1.00 | 3.00 | ≤ 16.0 | yes |",
		"| TCP checks of 20,000 backends, each once a second | checks/s | 2.00 | 1.00 | 3.00 | ≥ 19500 | no |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page has no %q:\n%s", want, text)
		}
	}
	var rows []row
	if text, err = os.ReadFile(data); err == nil {
		err = json.Unmarshal(text, &rows)
	}
	if err != nil || len(rows) != len(cases()) {
		t.Fatalf("%d rows of %d: %v", len(rows), len(cases()), err)
	}
	if r := rows[0]; r.Unit != "ms" || r.Median != 2 || r.Minimum != 1 || r.Maximum != 3 {
		t.Errorf("the first row is %+v", r)
	}
}

func TestRefuses(t *testing.T) {
	for input, want := range map[string]string{
		"":                                     "no figure",
		output("Move"):                         `no figure "slots/s" of BenchmarkMove`,
		output("") + "--- FAIL: BenchmarkX\n":  "a benchmark failed",
		"BenchmarkMove-2 10 many slots/s\n":    `"many" is no figure`,
		output("") + "FAIL\texample.com\t1s\n": "a benchmark failed",
	} {
		if err := run(nil, strings.NewReader(input), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := run([]string{"more"}, strings.NewReader(output("")), io.Discard, io.Discard); err == nil {
		t.Error("an argument too many is taken")
	}
}
