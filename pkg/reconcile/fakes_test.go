package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
)

// The fakes have no locks: only the goroutine of Run may call them once it runs,
// which the race detector sees to. Tests touch them while it waits.

// fakePlane remembers what was applied.
type fakePlane struct {
	nat                                   model.NATPorts
	checkFault, applyFault, countersFault error

	attempts, applies int
	applied           forwarding.State
	counters          dataplane.Counters
	clock             flux.Tick
	sweeps            uint64
	flows             dataplane.Flows
	rooms             []dataplane.Room
}

func newFakePlane() *fakePlane {
	return &fakePlane{flows: dataplane.Flows{Backends: map[dataplane.BackendKey]dataplane.BackendFlows{}}}
}

func (p *fakePlane) Check(forwarding.State) error { return p.checkFault }

func (p *fakePlane) Apply(s forwarding.State) error {
	p.attempts++
	if p.applyFault != nil {
		return p.applyFault
	}
	p.applies++
	p.applied = s
	return nil
}

func (p *fakePlane) Counters() (dataplane.Counters, error) { return p.counters, p.countersFault }

func (p *fakePlane) NAT() model.NATPorts { return p.nat }

func (p *fakePlane) Interfaces() []model.InterfaceStatus {
	return []model.InterfaceStatus{{Name: "eth0", Mode: "generic", Warning: "slow"}}
}

func (p *fakePlane) Maps() []model.MapUse {
	return []model.MapUse{{Name: "slots", Used: 1, Capacity: 2, Bytes: 8}}
}

// The flow table is what the test says it is, and swept at once.
func (p *fakePlane) Clock() flux.Tick        { return p.clock }
func (p *fakePlane) SetClock(now flux.Tick)  { p.clock = now }
func (p *fakePlane) NeedsSweep() bool        { return p.flows.Table.SlotsInFlux > 0 || len(p.rooms) > 0 }
func (p *fakePlane) Sweep(int) (bool, error) { p.sweeps++; return true, nil }
func (p *fakePlane) Rooms() []dataplane.Room { return p.rooms }
func (p *fakePlane) Flows() dataplane.Flows {
	flows := p.flows
	flows.Table.Sweeps = p.sweeps
	return flows
}

// fakeChecker has the results that it is told.
type fakeChecker struct {
	sets     int
	targets  []health.Target
	statuses map[health.Key]model.CheckStatus
	changed  chan struct{}
}

func newFakeChecker() *fakeChecker {
	return &fakeChecker{statuses: map[health.Key]model.CheckStatus{}, changed: make(chan struct{}, 1)}
}

func (c *fakeChecker) Set(targets []health.Target) {
	c.sets++
	c.targets = targets
	kept := map[health.Key]model.CheckStatus{}
	for _, t := range targets {
		if status, known := c.statuses[t.Key]; known {
			kept[t.Key] = status
		}
	}
	c.statuses = kept
}

// Snapshot lets a checker that never runs fold the results.
func (c *fakeChecker) Snapshot() *health.Snapshot {
	idle := health.New()
	idle.Set(c.targets)
	idle.Restore(c.statuses)
	return idle.Snapshot()
}

func (c *fakeChecker) Changed() <-chan struct{} { return c.changed }

// report gives a backend's checks a result: all of them, or the one named.
func (c *fakeChecker) report(pool string, id model.BackendID, check string, now model.Health, why string) error {
	found := false
	for _, t := range c.targets {
		if t.Pool == pool && t.Backend == id && (check == "" || t.Key.Check == check) {
			found = true
			c.statuses[t.Key] = model.CheckStatus{Name: t.Key.Check, Health: now, Since: time.Now(), Checked: time.Now(), Reason: why}
		}
	}
	if !found {
		return fmt.Errorf("backend %s of pool %q is not checked", id, pool)
	}
	c.changed <- struct{}{}
	return nil
}

// fakeResolver has the next hops that it is told.
type fakeResolver struct {
	sets   int
	wanted []netip.Addr
	hops   map[netip.Addr]neighbor.Hop
	// silent: addresses that it was told nothing of are not in its table.
	silent  bool
	changed chan struct{}
}

func newFakeResolver() *fakeResolver {
	return &fakeResolver{hops: map[netip.Addr]neighbor.Hop{}, changed: make(chan struct{}, 1)}
}

func (r *fakeResolver) Set(addrs []netip.Addr) {
	r.sets++
	r.wanted = addrs
}

func (r *fakeResolver) Table() neighbor.Table {
	table := neighbor.Table{}
	for _, addr := range r.wanted {
		if hop, known := r.hops[addr]; known {
			table[addr] = hop
		} else if !r.silent {
			table[addr] = hopTo(addr)
		}
	}
	return table
}

func (r *fakeResolver) Changed() <-chan struct{} { return r.changed }

func (r *fakeResolver) report(addr netip.Addr, hop neighbor.Hop) {
	r.hops[addr] = hop
	r.changed <- struct{}{}
}

// fakeStore keeps its state in memory, under the same contract as the real one.
type fakeStore struct {
	fault    error
	saves    int
	state    model.State
	revision uint64
	note     string
}

func (s *fakeStore) Load() (model.State, uint64, error) {
	return s.state.Clone(), s.revision, s.fault
}

func (s *fakeStore) Save(expect uint64, next model.State, note string) (uint64, error) {
	if s.fault != nil {
		return 0, s.fault
	}
	if expect != s.revision {
		return 0, errors.New("somebody else wrote to the store")
	}
	if err := next.Validate(); err != nil {
		return 0, fmt.Errorf("an invalid state was to be stored: %w", err)
	}
	if reflect.DeepEqual(s.state, next) {
		return s.revision, nil
	}
	s.state, s.note = next.Clone(), note
	s.revision++
	s.saves++
	return s.revision, nil
}
