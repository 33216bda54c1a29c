package main

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

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

// newSteelyard loads the packet path with room for flows.
func newSteelyard(c testCase, flows uint64) (subject, error) {
	limits := dataplane.Limits(config.Default().Limits)
	limits.VIPs = max(limits.VIPs, uint32(c.vips))
	limits.Endpoints = max(limits.Endpoints, uint32(c.vips))
	if c.room != 0 {
		limits.Flows = uint32(c.room)
	} else {
		limits.Flows = max(limits.Flows, 4*uint32(flows))
	}
	options := dataplane.Options{Seed: seed(), Screening: !c.unscreened}
	if c.mode == model.ModeFullNAT {
		options.NATSourceIPv4, options.NATSourceIPv6 = c.sources(flows)
	}
	plane, err := dataplane.Load(limits, options)
	if err != nil {
		return nil, err
	}
	s := &steelyard{plane, c.reason}
	if err := s.apply(c); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// sources are the addresses that so many flows come from when a VIP translates them:
// of the family's networks for documentation, with about twice as many ports.
func (c *testCase) sources(flows uint64) (ipv4, ipv6 netip.Prefix) {
	ports := dataplane.DefaultNATPorts()
	perAddress := uint64(ports.Last-ports.First) + 1
	free := bits.Len64(2 * flows / perAddress)
	if c.ipv6 {
		return netip.Prefix{}, netip.PrefixFrom(netip.MustParseAddr("2001:db8:9::"), 128-free)
	}
	return netip.PrefixFrom(netip.MustParseAddr("198.51.100.0"), 32-free), netip.Prefix{}
}

// apply gives the packet path the case's state, or two, if it is to be in flux.
func (s *steelyard) apply(c testCase) error {
	pools := []string{"bench"}
	if c.inFlux {
		pools = []string{"former", "bench"}
	}
	for _, pool := range pools {
		state, err := c.state(pool)
		if err != nil {
			return err
		}
		if err := s.Apply(state); err != nil {
			return err
		}
	}
	return nil
}

func (s *steelyard) tally() (tally, error) {
	counters, err := s.Counters()
	if err != nil {
		return tally{}, err
	}
	events, err := s.FlowEvents()
	if err != nil {
		return tally{}, err
	}
	t := tally{begun: events.Remembered + events.Opened}
	for _, reason := range counters.Reasons {
		if reason.Name == s.reason {
			t.expected += reason.Packets
		} else if reason.Packets > 0 {
			t.others += reason.Packets
			t.where = append(t.where, fmt.Sprintf("%d %s", reason.Packets, reason.Name))
		}
	}
	return t, nil
}

// state is what the reconciler would give the data plane: one pool, all backends
// healthy and reached through one interface.
func (c *testCase) state(name string) (forwarding.State, error) {
	// Test runs see packets come from the loopback interface.
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return forwarding.State{}, fmt.Errorf("loopback interface: %w", err)
	}
	out, err := net.InterfaceByName(wayOut)
	if err != nil {
		return forwarding.State{}, fmt.Errorf("interface %s: %w", wayOut, err)
	}
	pool := model.Pool{Name: name, TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop}
	// Packets may be sent through the interfaces that paths have.
	paths := map[netip.Addr]forwarding.Path{gateway(c.ipv6): {Link: out.Index, MTU: out.MTU}}
	for i := range backendsPerPool {
		id := c.backend(1 + i)
		pool.Backends = append(pool.Backends, model.Backend{BackendID: id, Weight: model.DefaultWeight, State: model.Enabled})
		paths[id.Address] = forwarding.Path{Link: loopback.Index, OnLink: true, Outer: c.backend(0).Address, MTU: 1500,
			Source: [6]byte{2, 0, 0, 0, 1, 0}, Destination: [6]byte{2, 0, 0, 0, 1, byte(1 + i)}}
	}
	desired := model.State{Pools: []model.Pool{pool}}
	if c.denied > 0 {
		list, err := c.denyList()
		if err != nil {
			return forwarding.State{}, err
		}
		desired.SourceLists, desired.Sources.Deny = []model.SourceList{list}, list.Name
	}
	for i := range c.vips {
		desired.VIPs = append(desired.VIPs, model.VIP{Name: fmt.Sprintf("bench-%d", i),
			Endpoints: []model.Endpoint{{Address: c.vip(i), Ports: model.Port(port)}},
			Protocol:  c.protocol, Mode: c.mode, Pool: pool.Name, Tracking: c.tracking,
			IdleTimeout: model.DefaultIdleTimeout, Affinity: c.affinity, Fragments: model.FragmentsFollow, Limits: c.limits})
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

// programsOf finds the programs that a program calls: those in the arrays of
// programs that it uses. The caller closes them.
func programsOf(main *ebpf.Program) ([]*ebpf.Program, error) {
	info, err := main.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	var called []*ebpf.Program
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return called, err
		}
		defer m.Close()
		if m.Type() != ebpf.ProgramArray {
			continue
		}
		var index, program uint32
		for entries := m.Iterate(); entries.Next(&index, &program); {
			p, err := ebpf.NewProgramFromID(ebpf.ProgramID(program))
			if err != nil {
				return called, err
			}
			called = append(called, p)
		}
	}
	return called, nil
}
