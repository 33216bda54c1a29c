// Package connections_test checks the promise that nothing the operator does to
// backends, or to Steelyard itself, breaks a connection. Real clients hold many
// connections through the built binary in a lab of network namespaces while a
// scenario changes something underneath them: over TCP, over QUIC, and over QUIC
// with clients that move all the while.
//
// Every scenario serves two VIPs from the same pools: "web" must lose nothing;
// "control", which lacks what keeps connections, must lose some in the same
// turmoil, or the scenario proves nothing. See [transport].
//
// The short form is what `go test` runs. `make test-connections` runs the long
// one, with more scenarios on more paths, and at least 2,000 TCP connections at once.
package connections_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// stall is how long a connection may wait for an answer, at any time. A
	// packet lost again and again is sent for the sixth time after 6 seconds.
	stall = 10 * time.Second
	// controlStall is how long one of the control may. Those that break are known
	// by it if nobody tells them, and a scenario waits for that at every step.
	controlStall = time.Second
	// patience is the deadline of what should take a moment.
	patience = 60 * time.Second
)
