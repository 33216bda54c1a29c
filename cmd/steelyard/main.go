// Steelyard is a layer-4 load balancer on XDP: the daemon, its command line, and
// the helper for backend hosts, in one binary.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/cli"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, cli.World{
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Args:    os.Args[1:],
		Getenv:  os.Getenv,
		Now:     time.Now,
		After:   time.After,
		Version: version,
		Daemon:  runDaemon,
		Backend: runBackend,
		Detach: func(_ context.Context, o cli.DetachOptions) error {
			return dataplane.Unpin(o.PinPath)
		},
	}))
}
