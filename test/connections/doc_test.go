// Package connections_test checks the promise that nothing the operator does to
// backends, or to Steelyard itself, breaks a connection. Real clients hold many
// TCP connections through the built binary in a lab of network namespaces while
// a scenario changes something underneath them.
//
// Every scenario serves two VIPs from the same pools: "web", with tracking
// flux, must lose nothing; "control", with tracking none, must lose some in the
// same turmoil, or the scenario proves nothing.
//
// The short form is what `go test` runs. `make test-connections` runs the long
// one, with at least 2,000 connections at once.
package connections_test

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// stall is how long a connection may wait for an answer, at any time. A
	// packet lost again and again is sent for the fifth time after 3 seconds.
	stall = 5 * time.Second
	// patience is the deadline of what should take a moment.
	patience = 60 * time.Second
)

// form is how much of everything a run has.
type form struct {
	connections, control int // opened before a scenario disturbs anything
	repetitions          int // of flaps, restarts, crashes
	churn                int // random steps
	flood                int // SYNs
	settled              int // SYNs on settled slots
}

// size is the form that the environment asks for.
func size() form {
	if os.Getenv("STEELYARD_CONNECTIONS") == "full" {
		return form{connections: 2000, control: 200, repetitions: 10, churn: 150, flood: 300_000, settled: 1_000_000}
	}
	return form{connections: 400, control: 200, repetitions: 4, churn: 40, flood: 100_000, settled: 100_000}
}
