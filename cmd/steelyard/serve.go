package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/steelyard-lb/steelyard/pkg/backend"
	"github.com/steelyard-lb/steelyard/pkg/cli"
	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/daemon"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// runDaemon is `steelyard daemon`: configuration, then flags, then the daemon.
func runDaemon(ctx context.Context, o cli.DaemonOptions) error {
	c, err := configuration(o)
	if err != nil {
		return err
	}
	log := logger(c.Log)
	// Systemd and terminals send it; there is nothing to read again.
	signal.Ignore(syscall.SIGHUP)
	log.Info("starting", "version", version, "interfaces", c.Interfaces)
	err = daemon.Run(ctx, daemon.Options{
		Config:  c,
		Version: version,
		Log:     log,
		Ready: func() {
			log.Info("ready", "socket", c.API.Socket, "metrics", c.Metrics.Listen)
			notify(log, sd.SdNotifyReady)
		},
	})
	notify(log, sd.SdNotifyStopping)
	if err == nil {
		log.Info("stopped")
	}
	return err
}

func configuration(o cli.DaemonOptions) (config.Config, error) {
	c, err := config.Load(o.Config)
	if errors.Is(err, os.ErrNotExist) && !o.ConfigRequired {
		c, err = config.Default(), nil
	}
	if err != nil {
		return c, err
	}
	if o.Socket != "" {
		c.API.Socket = o.Socket
	}
	if o.Store != "" {
		c.Store = o.Store
	}
	c.DetachOnExit = c.DetachOnExit || o.DetachOnExit
	if o.XDPMode != "" {
		if c.XDPMode, err = model.ParseXDPMode(o.XDPMode); err != nil {
			return c, err
		}
	}
	return c, c.AddInterfaces(o.Interfaces...)
}

func logger(c config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// notify tells systemd, where it started us and wants to know.
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "state", state, "error", err)
	}
}

// runBackend is `steelyard backend --vip ...`, on a backend host.
func runBackend(ctx context.Context, o cli.BackendOptions) error {
	mode, err := model.ParseXDPMode(cmp.Or(o.XDPMode, "auto"))
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }
	return backend.Run(ctx, backend.Options{
		VIPs:       o.VIPs,
		Balancers:  o.Balancers,
		Interfaces: o.Interfaces,
		Decap:      o.Decap,
		GUEPort:    o.GUEPort,
		Mode:       mode,
		Say:        say,
	}, func() { notify(slog.Default(), sd.SdNotifyReady) })
}
