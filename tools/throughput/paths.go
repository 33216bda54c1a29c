package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/test/lab"
)

// path is a way from the client to the web servers.
type path struct {
	name string
	// open makes the way; direct ones do not lead through the balancer.
	open   func(context.Context, *site) (*way, error)
	direct bool
}

// way is a path that is open. Its owner closes it.
type way struct {
	targets []netip.Addr
	// passed counts packets that the balancer has seen of the requests.
	passed  func() (uint64, error)
	closing []func() error // from the last to the first
}

func (w *way) later(f func() error) { w.closing = append(w.closing, f) }

func (w *way) close() error {
	var errs []error
	for i := len(w.closing) - 1; i >= 0; i-- {
		errs = append(errs, w.closing[i]())
	}
	w.closing = nil
	return errors.Join(errs...)
}

const (
	noBalancer    = "no balancer"
	oneHopMore    = "no balancer, one hop more"
	bareXDP       = "bare xdp"
	nginxStream   = "nginx stream"
	haproxyTCP    = "haproxy tcp"
	steelyardIPIP = "steelyard dsr-ipip"
	steelyardL2   = "steelyard dsr-l2"
)

func paths() []path {
	through := func(mode model.Mode) func(context.Context, *site) (*way, error) {
		return func(ctx context.Context, s *site) (*way, error) { return openSteelyard(ctx, s, mode) }
	}
	return []path{
		{noBalancer, openDirect, true},
		{oneHopMore, openHop, false},
		{bareXDP, openBare, false},
		{steelyardIPIP, through(model.ModeDSRIPIP), false},
		{steelyardL2, through(model.ModeDSRL2), false},
		{"steelyard nat", through(model.ModeNAT), false},
		{"steelyard fullnat", through(model.ModeFullNAT), false},
		{nginxStream, openNginx, false},
		{haproxyTCP, openHAProxy, false},
	}
}

// openDirect lets the client ask the web servers themselves, through router and switch.
func openDirect(_ context.Context, s *site) (*way, error) {
	return &way{targets: s.addresses(), passed: s.received}, s.answerThrough(s.Router)
}

// openHop does the same, but the router sends the requests through the balancer's namespace,
// where the kernel forwards them: the way that packets take where there is a balancer of no
// cost but that of the hop.
func openHop(_ context.Context, s *site) (w *way, err error) {
	w = &way{targets: s.addresses(), passed: s.received}
	route := func(verb string) error {
		var errs []error
		for _, b := range s.addresses() {
			_, err := s.Router.Run("ip", "route", verb, b.String()+"/32", "via", s.Balancer.V4.String())
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if err := errors.Join(route("add"), s.answerThrough(s.Router)); err != nil {
		return w, errors.Join(err, route("delete"))
	}
	w.later(func() error { return route("delete") })
	return w, nil
}

// openSteelyard starts a daemon with one VIP, and prepares the backends as the mode needs
// it.
func openSteelyard(ctx context.Context, s *site, mode model.Mode) (w *way, err error) {
	w = &way{targets: []netip.Addr{s.vip}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := s.forXDP(w); err != nil {
		return w, err
	}
	daemon, err := startDaemon(ctx, s)
	if err != nil {
		return w, err
	}
	w.later(daemon.Stop)
	w.passed = func() (uint64, error) { return packetsOf(daemon) }
	add := []string{"vip", "add", "web", netip.AddrPortFrom(s.vip, 80).String(), "--mode", mode.String(), "--check", "none"}
	for _, b := range s.addresses() {
		add = append(add, "--backend", b.String())
	}
	if _, err := daemon.CLI(add...); err != nil {
		return w, err
	}
	if mode == model.ModeNAT {
		return w, s.answerThrough(s.Balancer)
	}
	if err := s.answerThrough(s.Router); err != nil || mode == model.ModeFullNAT {
		return w, err
	}
	var options []string
	if mode == model.ModeDSRL2 {
		options = append(options, "--no-decap")
	}
	return w, s.takeVIP(ctx, w, options...)
}

// startDaemon starts a daemon that knows nothing yet, and leaves nothing behind.
func startDaemon(ctx context.Context, s *site) (*lab.Daemon, error) {
	dir, store := s.Balancer.Dir(), filepath.Join(s.Balancer.Dir(), "state.db")
	if err := os.RemoveAll(store); err != nil {
		return nil, err
	}
	snat, _ := lab.SNAT()
	socket := filepath.Join(dir, "api.sock")
	return s.Balancer.Daemon(ctx, s.binary, socket, fmt.Sprintf(
		"interfaces: [eth0]\nxdp_mode: native\ndetach_on_exit: true\napi:\n  socket: %s\nstore: %s\nnat:\n  source_ipv4: %s\nmetrics:\n  listen: \"\"\n",
		socket, store, snat))
}

// packetsOf is how many packets of the VIP the daemon's program has forwarded.
func packetsOf(daemon *lab.Daemon) (uint64, error) {
	out, err := daemon.CLI("status", "-o", "json")
	if err != nil {
		return 0, err
	}
	var status struct {
		VIPs []struct {
			Packets uint64 `json:"packets"`
		} `json:"vips"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return 0, fmt.Errorf("steelyard status: %w", err)
	}
	if len(status.VIPs) != 1 {
		return 0, fmt.Errorf("steelyard status: %d VIPs, want 1", len(status.VIPs))
	}
	return status.VIPs[0].Packets, nil
}
