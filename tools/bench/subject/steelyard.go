package subject

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// steelyard is the packet path as the daemon loads it, with one case's state.
type steelyard struct {
	*dataplane.Plane
	reason string
}

// seed keys the flow hash. Any will do; a fixed one makes runs comparable.
func seed() dataplane.Seed { return dataplane.Seed{0x0123456789abcdef, 0xfedcba9876543210} }

// NewSteelyard loads the packet path with room for flows.
func NewSteelyard(c Case, flows uint64) (Subject, error) {
	limits := dataplane.Limits(config.Default().Limits)
	limits.VIPs = max(limits.VIPs, uint32(c.VIPs))
	limits.Endpoints = max(limits.Endpoints, uint32(c.VIPs))
	if c.Room != 0 {
		limits.Flows = uint32(c.Room)
	} else {
		limits.Flows = max(limits.Flows, 4*uint32(flows))
	}
	options := dataplane.Options{Seed: seed(), Screening: !c.Unscreened}
	if c.Mode == model.ModeFullNAT {
		options.NATSourceIPv4, options.NATSourceIPv6 = c.sources(flows)
	}
	plane, err := dataplane.LoadRewritten(limits, options, c.Rewrite)
	if err != nil {
		return nil, err
	}
	s := &steelyard{plane, c.Reason}
	if err := s.apply(c, flows); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// sources are the addresses that so many flows come from when a VIP translates them:
// of the networks for documentation of the backends' family, with about twice as many ports.
func (c *Case) sources(flows uint64) (ipv4, ipv6 netip.Prefix) {
	ports := dataplane.DefaultNATPorts()
	perAddress := uint64(ports.Last-ports.First) + 1
	free := bits.Len64(2 * flows / perAddress)
	if c.backendsIPv6() {
		return netip.Prefix{}, netip.PrefixFrom(netip.MustParseAddr("2001:db8:9::"), 128-free)
	}
	return netip.PrefixFrom(netip.MustParseAddr("198.51.100.0"), 32-free), netip.Prefix{}
}

// apply gives the packet path the case's state, or two, if it is to be in flux.
func (s *steelyard) apply(c Case, flows uint64) error {
	pools := []string{"bench"}
	if c.InFlux {
		pools = []string{"former", "bench"}
	}
	for _, pool := range pools {
		state, err := c.state(pool, flows)
		if err != nil {
			return err
		}
		if err := s.Apply(state); err != nil {
			return err
		}
	}
	return nil
}

func (s *steelyard) Tally() (Tally, error) {
	counters, err := s.Counters()
	if err != nil {
		return Tally{}, err
	}
	events, err := s.FlowEvents()
	if err != nil {
		return Tally{}, err
	}
	t := Tally{Begun: events.Remembered + events.Opened}
	for _, reason := range counters.Reasons {
		if reason.Name == s.reason {
			t.Expected += reason.Packets
		} else if reason.Packets > 0 {
			t.Others += reason.Packets
			t.Where = append(t.Where, fmt.Sprintf("%d %s", reason.Packets, reason.Name))
		}
	}
	return t, nil
}

// state is what the reconciler would give the data plane: one pool, all backends
// healthy and reached through one interface.
func (c *Case) state(name string, flows uint64) (forwarding.State, error) {
	link, err := net.InterfaceByName(c.Link)
	if err != nil {
		return forwarding.State{}, fmt.Errorf("interface %s: %w", c.Link, err)
	}
	paths := map[netip.Addr]forwarding.Path{}
	if c.Out != "" {
		out, err := net.InterfaceByName(c.Out)
		if err != nil {
			return forwarding.State{}, fmt.Errorf("interface %s: %w", c.Out, err)
		}
		// Packets may be sent through the interfaces that paths have.
		paths[Router(c.IPv6)] = forwarding.Path{Link: out.Index, MTU: out.MTU}
	}
	pool := model.Pool{Name: name, TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop}
	for i := range BackendsPerPool {
		id := c.backend(1 + i)
		pool.Backends = append(pool.Backends, model.Backend{BackendID: id, Weight: model.DefaultWeight, State: model.Enabled})
		paths[id.Address] = forwarding.Path{Link: link.Index, OnLink: true, Outer: c.backend(0).Address, MTU: 1500,
			Source: [6]byte{2, 0, 0, 0, 1, 0}, Destination: [6]byte{2, 0, 0, 0, 1, byte(1 + i)}}
	}
	desired := model.State{Pools: []model.Pool{pool}}
	if c.Denied > 0 {
		list, err := c.denyList(flows)
		if err != nil {
			return forwarding.State{}, err
		}
		desired.SourceLists, desired.Sources.Deny = []model.SourceList{list}, list.Name
	}
	for i := range c.VIPs {
		desired.VIPs = append(desired.VIPs, model.VIP{Name: fmt.Sprintf("bench-%d", i),
			Endpoints: []model.Endpoint{{Address: c.vip(i), Ports: model.Port(port)}},
			Protocol:  c.Protocol, Mode: c.Mode, Pool: pool.Name, Tracking: c.Tracking,
			IdleTimeout: model.DefaultIdleTimeout, Affinity: c.Affinity, Fragments: model.FragmentsFollow, Limits: c.Limits})
	}
	desired.Sort()
	if err := desired.Validate(); err != nil {
		return forwarding.State{}, err
	}
	up := func(*model.Pool, model.BackendID) (model.Health, time.Time) { return model.HealthUp, time.Time{} }
	state, err := forwarding.Build(desired, up, forwarding.Nobody, time.Time{}, forwarding.State{})
	state.Paths = paths
	return state, err
}
