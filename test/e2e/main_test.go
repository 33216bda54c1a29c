// Package e2e tests the built binary, with real servers and clients in network
// namespaces: what an operator types goes in, what a client sees comes out.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/test/lab"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		os.Exit(play(os.Args[1:]))
	}
	path, err := lab.Binary()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&0o111 == 0 {
		fmt.Fprintf(os.Stderr, "e2e: there is no program at %s: build it with 'make build', or name another in STEELYARD_BINARY\n", path)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
