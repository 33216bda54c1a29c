package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// measured has what go test -bench printed: figures by benchmark and metric, one for
// each run, and what it said of the machine.
type measured struct {
	figures map[string]map[string][]float64
	cpu     string
}

// read reads the output of go test -bench, of any number of packages.
func read(in io.Reader) (*measured, error) {
	m := &measured{figures: map[string]map[string][]float64{}}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		if cpu, ok := strings.CutPrefix(line, "cpu: "); ok {
			m.cpu = cpu
		}
		if strings.HasPrefix(line, "--- FAIL") || strings.HasPrefix(line, "FAIL") {
			return nil, fmt.Errorf("a benchmark failed: %s; run it by itself, with go test -run '^$' -bench NAME", line)
		}
		if words := strings.Fields(line); strings.HasPrefix(line, "Benchmark") && len(words) >= 4 {
			if err := m.add(words); err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
		}
	}
	return m, lines.Err()
}

// add takes in a line: name, number of iterations, and pairs of figure and metric.
func (m *measured) add(words []string) error {
	name := strings.TrimPrefix(words[0], "Benchmark")
	// The last part is how many processors there were, where there was more than one.
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if _, err := strconv.Atoi(name[i+1:]); err == nil {
			name = name[:i]
		}
	}
	if m.figures[name] == nil {
		m.figures[name] = map[string][]float64{}
	}
	for i := 2; i+1 < len(words); i += 2 {
		n, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return fmt.Errorf("%q is no figure", words[i])
		}
		m.figures[name][words[i+1]] = append(m.figures[name][words[i+1]], n)
	}
	return nil
}
