// Package plan is what the runner of the kernel matrix and the first process of
// its virtual machines say to each other.
package plan

import (
	"encoding/json"
	"strings"
	"time"
)

const (
	// Path is where a machine finds its [Plan], as JSON.
	Path = "/plan.json"
	// Root is where a machine has the repository's files, as far as jobs need them.
	Root = "/steelyard"
	// Output is the device for what jobs print and for events. The kernel's own
	// messages go to another one, so that they never cut a line in two.
	Output = "/dev/ttyS1"
	// Guest marks, in the environment of jobs, that a machine is there for them alone.
	Guest = "STEELYARD_GUEST"
)

// Plan is what a machine does from boot to power-off.
type Plan struct {
	// Modules are files of kernel modules, each after those that it needs.
	Modules []string
	Jobs    []Job
}

// Job is one run of a compiled Go test.
type Job struct {
	Name string
	// Program is the test binary and Dir where it runs, both below [Root].
	Program, Dir string
	// Tests names tests that have to pass; empty means all that there are.
	Tests []string
	// Skip has patterns, as go test -skip takes them, of tests that are not run.
	Skip []string
	// Timeout ends the job with the stacks of its goroutines.
	Timeout time.Duration
}

// Event is what a machine reports: the end of a job, or of everything.
type Event struct {
	// Job is empty in the last event.
	Job    string
	Passed bool
	// Why says what is wrong with a job that has not passed.
	Why string
	// Tests that passed, without their subtests.
	Tests int
	Took  time.Duration
}

// eventPrefix marks the lines that are events.
const eventPrefix = "@steelyard "

// Line is the event as one line.
func (e Event) Line() (string, error) {
	text, err := json.Marshal(e)
	return eventPrefix + string(text), err
}

// ParseEvent reads a line; ok is false if it is no event.
func ParseEvent(line string) (e Event, ok bool) {
	text, ok := strings.CutPrefix(line, eventPrefix)
	if !ok || json.Unmarshal([]byte(text), &e) != nil {
		return Event{}, false
	}
	return e, true
}
