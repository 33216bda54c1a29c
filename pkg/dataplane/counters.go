package dataplane

import (
	"fmt"

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
		c.VIPs[name] = p.vipCounters.sum(v.id)
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
			c.Backends[BackendKey{name, id}] = p.backendCounters.sum(at.base() + owner)
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
