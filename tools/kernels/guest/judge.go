package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

// arguments are those of the test binary.
func arguments(job plan.Job) []string {
	args := []string{"-test.v", "-test.timeout=" + job.Timeout.String()}
	if len(job.Tests) > 0 {
		args = append(args, "-test.run="+anyOf(job.Tests))
	}
	if len(job.Skip) > 0 {
		args = append(args, "-test.skip="+strings.Join(job.Skip, "|"))
	}
	return args
}

func anyOf(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }

// judge passes on what a test prints and notes how its tests ended. The exit
// status alone is not enough: it is 0 too if tests are skipped or not there.
type judge struct {
	out     io.Writer
	rest    []byte
	passed  map[string]bool
	skipped []string
}

func newJudge(out io.Writer) *judge { return &judge{out: out, passed: map[string]bool{}} }

func (j *judge) Write(p []byte) (int, error) {
	j.rest = append(j.rest, p...)
	for {
		line, rest, whole := bytes.Cut(j.rest, []byte("\n"))
		if !whole {
			break
		}
		j.line(string(line))
		j.rest = rest
	}
	return j.out.Write(p)
}

func (j *judge) line(line string) {
	// Results of subtests are indented.
	if name, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "--- SKIP: "); ok {
		j.skipped = append(j.skipped, testName(name))
	} else if name, ok := strings.CutPrefix(line, "--- PASS: "); ok {
		j.passed[testName(name)] = true
	}
}

func testName(result string) string {
	name, _, _ := strings.Cut(result, " ")
	return name
}

// verdict wants all of these tests, or at least one if there are none, to have
// passed, and none to have been skipped.
func (j *judge) verdict(tests []string) error {
	var errs []error
	if len(j.passed) == 0 {
		errs = append(errs, errors.New("no test passed"))
	}
	for _, name := range tests {
		if !j.passed[name] {
			errs = append(errs, fmt.Errorf("%s has not passed", name))
		}
	}
	for _, name := range j.skipped {
		errs = append(errs, fmt.Errorf("%s was skipped", name))
	}
	return errors.Join(errs...)
}
