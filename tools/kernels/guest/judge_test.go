package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name, output string
		tests        []string
		want         string // the error, empty for none
	}{
		{"passed", "=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n", []string{"TestA"}, ""},
		{"any", "--- PASS: TestA (0.00s)\n", nil, ""},
		{"nothing ran", "testing: warning: no tests to run\nPASS\n", nil, "no test passed"},
		{"one is not there", "--- PASS: TestA (0.00s)\n", []string{"TestA", "TestB"}, "TestB has not passed"},
		{"only a subtest", "    --- PASS: TestA/b (0.00s)\n", nil, "no test passed"},
		{"skipped", "--- PASS: TestA (0.00s)\n--- SKIP: TestB (0.00s)\n", nil, "TestB was skipped"},
		{"a subtest was skipped", "--- PASS: TestA (0.00s)\n    --- SKIP: TestA/b (0.00s)\n", nil, "TestA/b was skipped"},
		{"another name", "--- PASS: TestAll (0.00s)\n", []string{"TestA"}, "TestA has not passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			j := newJudge(&out)
			// In pieces, as they come from a pipe.
			for _, piece := range strings.SplitAfter(tt.output, "-") {
				if _, err := j.Write([]byte(piece)); err != nil {
					t.Fatal(err)
				}
			}
			err := j.verdict(tt.tests)
			if err == nil {
				err = errors.New("")
			}
			if err.Error() != tt.want || out.String() != tt.output {
				t.Errorf("got %q, want %q; it passed on %q", err, tt.want, &out)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	got := strings.Join(arguments(plan.Job{Tests: []string{"TestA", "TestB"}, Skip: []string{"TestC", "TestD/ipv./e"}}), " ")
	if want := "-test.v -test.timeout=0s -test.run=^(TestA|TestB)$ -test.skip=TestC|TestD/ipv./e"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
