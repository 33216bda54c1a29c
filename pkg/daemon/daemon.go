// Package daemon assembles the parts into the program that runs on a balancer,
// and supervises them: when one ends, all do.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
	"github.com/steelyard-lb/steelyard/pkg/reconcile"
	"github.com/steelyard-lb/steelyard/pkg/store"
)

// Options of a daemon.
type Options struct {
	Config  config.Config
	Version string
	Log     *slog.Logger
	// Ready is called once traffic is balanced and the API answers.
	Ready func()
}

// daemon holds what is open while the daemon runs.
type daemon struct {
	Options
	store    *store.Store
	plane    *dataplane.Plane
	checker  *health.Checker
	resolver *neighbor.Resolver
	loop     *reconcile.Loop
	api      net.Listener
	// metrics is nil where they are turned off.
	metrics net.Listener
	// ready says that Ready was called.
	ready bool
}

// Run balances until ctx ends. Packets go on to be balanced without it, as they were
// last, until the next Run takes over, unless the configuration says to detach.
// Errors before Ready mean that nothing is attached that was not before.
func Run(ctx context.Context, o Options) (err error) {
	if len(o.Config.Interfaces) == 0 {
		return errors.New("no interface to attach to: name one with --interface, or under interfaces: in the configuration")
	}
	d := &daemon{Options: o}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(); err != nil {
		return err
	}
	return d.supervise(ctx)
}

// open makes everything that can fail before a packet is touched. Whatever it
// opened, close closes.
func (d *daemon) open() error {
	var err error
	if d.store, err = store.Open(d.Config.Store); err != nil {
		return err
	}
	seed := d.Config.HashSeed
	if seed == [16]byte{} {
		if seed, err = d.store.HashSeed(); err != nil {
			return err
		}
	}
	if d.api, err = api.Listen(d.Config.API.Socket, d.Config.API.Group); err != nil {
		return err
	}
	if d.Config.Metrics.Listen != "" {
		if d.metrics, err = net.Listen("tcp", d.Config.Metrics.Listen); err != nil {
			return fmt.Errorf("metrics: %w; set metrics.listen in the configuration to another address, or to \"\" for none", err)
		}
	}
	if d.plane, err = dataplane.Open(d.Config.PinPath, dataplane.Limits(d.Config.Limits), planeOptions(d.Config, seed)); err != nil {
		return err
	}
	if d.plane.Adopted() {
		d.Log.Info("took over from a former daemon; its connections stay", "pin_path", d.Config.PinPath)
	}
	if d.resolver, err = neighbor.New(); err != nil {
		return err
	}
	d.checker = health.New()
	if err := restoreHealth(d.store, d.checker); err != nil {
		return err
	}
	d.loop, err = reconcile.New(reconcile.Options{
		Plane:     d.plane,
		Checker:   d.checker,
		Resolver:  d.resolver,
		Store:     d.store,
		Log:       d.Log,
		Version:   d.Version,
		OuterIPv4: d.Config.Encapsulation.SourceIPv4.Addr(),
		OuterIPv6: d.Config.Encapsulation.SourceIPv6.Addr(),
		MTU:       int(d.Config.Encapsulation.MTU),

		NATIPv4: d.Config.NAT.SourceIPv4,
		NATIPv6: d.Config.NAT.SourceIPv6,

		SweepShare: int(d.Config.SweepShare),
	})
	return err
}

// planeOptions are what the packet path has of the configuration, and the seed.
func planeOptions(c config.Config, seed [16]byte) dataplane.Options {
	return dataplane.Options{
		Seed:        dataplane.NewSeed(seed),
		SourceIPv4:  c.Encapsulation.SourceIPv4,
		SourceIPv6:  c.Encapsulation.SourceIPv6,
		GUEPort:     c.Encapsulation.GUEPort,
		GUEChecksum: c.Encapsulation.GUEChecksum,
		ICMPRate:    c.ICMPRate,
		Screening:   c.Screening,

		NATSourceIPv4: c.NAT.SourceIPv4,
		NATSourceIPv6: c.NAT.SourceIPv6,
		NATPorts:      c.NAT.Ports,
	}
}

func (d *daemon) close() error {
	var errs []error
	if d.plane != nil {
		if d.Config.DetachOnExit || !d.ready && !d.plane.Adopted() {
			errs = append(errs, d.plane.Detach())
		}
		errs = append(errs, d.plane.Close())
	}
	if d.resolver != nil {
		d.resolver.Close()
	}
	for _, l := range []net.Listener{d.api, d.metrics} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}

// supervise runs every task until one ends or ctx does.
func (d *daemon) supervise(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return named("health checks", d.checker.Run(ctx)) })
	group.Go(func() error { return named("next hops", d.resolver.Run(ctx)) })
	group.Go(func() error { return named("health on disk", keepHealth(ctx, d.checker, d.store, d.Log)) })
	group.Go(func() error {
		return d.loop.Run(ctx, func() error {
			if err := d.attach(); err != nil {
				return err
			}
			group.Go(func() error { return named("API", d.serveAPI(ctx)) })
			if d.metrics != nil {
				group.Go(func() error { return named("metrics", d.serveMetrics(ctx)) })
			}
			d.ready = true
			d.Ready()
			return nil
		})
	})
	return group.Wait()
}

func named(task string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", task, err)
}

func (d *daemon) attach() error {
	if err := d.plane.Attach(d.Config.XDPMode, d.Config.Interfaces...); err != nil {
		return err
	}
	for _, i := range d.plane.Interfaces() {
		if i.Warning != "" {
			d.Log.Warn("attached", "interface", i.Name, "mode", i.Mode, "warning", i.Warning)
		} else {
			d.Log.Info("attached", "interface", i.Name, "mode", i.Mode)
		}
	}
	return nil
}
