package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// BackendKey names a backend of a pool.
type BackendKey struct {
	Pool string
	ID   model.BackendID
}

// Counters are the packet path's counters at one moment, by name.
type Counters struct {
	VIPs     map[string]model.Counters
	Backends map[BackendKey]model.Counters
	// Dropped are the packets of each VIP that its guard dropped, by the reasons that it
	// may have, in the order of Reasons.
	Dropped map[string][]model.Reason
	// Observed are what limits that only observe would have dropped, by the reason that
	// it would have had; Forgotten counts sources that there was no room for.
	Observed  map[string][]model.Reason
	Forgotten map[string]uint64
	// Reasons are in the order in which the program declares them.
	Reasons   []model.Reason
	Fragments model.FragmentTable
}

// Counters reads everything that is counted.
func (p *Plane) Counters() (Counters, error) {
	c := Counters{
		VIPs:     make(map[string]model.Counters, len(p.applied.vips)),
		Backends: map[BackendKey]model.Counters{},
		Reasons:  make([]model.Reason, len(p.reasons)),
		Dropped:  make(map[string][]model.Reason, len(p.applied.vips)),
		Observed: make(map[string][]model.Reason, len(p.applied.vips)), Forgotten: make(map[string]uint64, len(p.applied.vips)),
	}
	for name, v := range p.applied.vips {
		sum, err := readCounters(p.maps.VipCounters, v.id)
		if err != nil {
			return Counters{}, fmt.Errorf("counters of VIP %q: %w", name, err)
		}
		c.VIPs[name] = sum
		guard, err := p.readGuardCounters(v.id)
		if err != nil {
			return Counters{}, fmt.Errorf("guard of VIP %q: %w", name, err)
		}
		c.Dropped[name] = p.guardReasons(lbReasonDROP_TCP_FLAGS, guard.Dropped[:])
		c.Observed[name] = p.guardReasons(lbReasonDROP_LIMIT_SOURCE_PACKETS, guard.Observed[:])
		c.Forgotten[name] = guard.Forgotten
	}
	for name, at := range p.applied.places {
		for id, owner := range at.owners {
			sum, err := readCounters(p.maps.BackendCounters, at.base()+owner)
			if err != nil {
				return Counters{}, fmt.Errorf("counters of backend %s of pool %q: %w", id, name, err)
			}
			c.Backends[BackendKey{name, id}] = sum
		}
	}
	for i, name := range p.reasons {
		var perCPU []uint64
		if err := p.maps.Reasons.Lookup(uint32(i), &perCPU); err != nil {
			return Counters{}, fmt.Errorf("reason %s: %w", name, err)
		}
		c.Reasons[i].Name = name
		for _, n := range perCPU {
			c.Reasons[i].Packets += n
		}
	}
	events, err := p.flowEvents()
	c.Fragments = model.FragmentTable{
		Remembered: events[lbFlowEventFRAGMENT_REMEMBERED], Evicted: events[lbFlowEventFRAGMENT_EVICTED],
	}
	return c, err
}

func readCounters(m *ebpf.Map, index uint32) (model.Counters, error) {
	var perCPU []lbCounters
	if err := m.Lookup(index, &perCPU); err != nil {
		return model.Counters{}, err
	}
	var sum model.Counters
	for _, c := range perCPU {
		sum.Packets += c.Packets
		sum.Bytes += c.Bytes
		sum.Connections += c.Connections
	}
	return sum, nil
}

// clearCounters zeroes an index that is no longer used, for whoever gets it next.
func clearCounters(m *ebpf.Map, index uint32) error {
	return m.Put(index, make([]lbCounters, ebpf.MustPossibleCPU()))
}

// moveCounters copies an index's counts to another.
func moveCounters(m *ebpf.Map, from, to uint32) error {
	var perCPU []lbCounters
	if err := m.Lookup(from, &perCPU); err != nil {
		return err
	}
	return m.Put(to, perCPU)
}
