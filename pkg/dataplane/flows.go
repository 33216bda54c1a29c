package dataplane

import (
	"fmt"
	"sync/atomic"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// flowsPerBucket is how many flows an element of the map holds; see bpf/maps.h.
const flowsPerBucket = 4

// The layout of a flow's words; see struct flow in bpf/maps.h.
const (
	flowClaimed      = 1
	flowTickMask     = 1<<flux.TickBits - 1
	flowBackendShift = 20
	flowBackendMask  = 1<<20 - 1
	flowVIPShift     = 40
	flowVIPMask      = 1<<16 - 1
	flowFlagsShift   = 56
	flowSeal         = 0x00fffffffff00000
)

// flow is an entry of the flow table.
type flow struct {
	flux.Entry
	// hash is the flow's but for its lowest bits, which no slot depends on.
	hash uint64
	vip  uint32
}

func decodeFlow(key, state uint64) flow {
	flags := lbFlowFlag(state >> flowFlagsShift)
	return flow{
		hash: key,
		vip:  uint32(state >> flowVIPShift & flowVIPMask),
		Entry: flux.Entry{
			Backend:   uint32(state >> flowBackendShift & flowBackendMask),
			Seen:      flux.Tick(state & flowTickMask),
			Essential: flags&lbFlowFlagFLOW_ESSENTIAL != 0,
			Confirmed: flags&lbFlowFlagFLOW_CONFIRMED != 0,
			Closing:   flags&lbFlowFlagFLOW_CLOSING != 0,
		},
	}
}

// sealFlow mixes what must not be torn from a key into it, or takes it out again;
// see bpf/flow.h.
func sealFlow(key, state uint64) uint64 { return key ^ state&flowSeal }

// loadFlow reads an entry as bpf/flow.h does; false if it is empty or being written.
func loadFlow(e *lbFlow) (key, state uint64, ok bool) {
	sealed := atomic.LoadUint64(&e.Key)
	if sealed == 0 || sealed == flowClaimed {
		return 0, 0, false
	}
	state = atomic.LoadUint64(&e.State)
	return sealFlow(sealed, state), state, atomic.LoadUint64(&e.Key) == sealed
}

// dropFlow empties an entry unless it has changed since it was read.
func dropFlow(e *lbFlow, key, state uint64) {
	sealed := sealFlow(key, state)
	if !atomic.CompareAndSwapUint64(&e.Key, sealed, flowClaimed) {
		return
	}
	if atomic.LoadUint64(&e.State) != state {
		atomic.StoreUint64(&e.Key, sealed)
		return
	}
	atomic.StoreUint64(&e.Key, 0)
}

// FlowEvents count what happened to the flow table since it was made.
type FlowEvents struct {
	// Remembered are new entries.
	Remembered uint64
	// Evicted entries were live and gave way: closing ones, those that only
	// told that their flow was alive, those that had seen one packet.
	EvictedClosing, EvictedPrior, EvictedEmbryonic uint64
	// EvictedConnections and Unremembered are flows that may break at the next
	// change: alarms.
	EvictedConnections, Unremembered uint64
	// Opened are connections of fullnat that have begun; EvictedOpen those that gave
	// their port away, for they had not begun with their backend, or had ended.
	Opened, EvictedOpen uint64
	// Exhausted are packets that began no connection of fullnat: no port was free.
	Exhausted uint64
}

// flowEvents reads the counts of the flow table and of that of fragments.
func (p *Plane) flowEvents() (sums [lbFlowEventFLOW_EVENTS]uint64, err error) {
	for i := range sums {
		var perCPU []uint64
		if err := p.maps.FlowEvents.Lookup(uint32(i), &perCPU); err != nil {
			return sums, fmt.Errorf("flow events: %w", err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return sums, nil
}

// FlowEvents reads the counts.
func (p *Plane) FlowEvents() (FlowEvents, error) {
	sums, err := p.flowEvents()
	if err != nil {
		return FlowEvents{}, err
	}
	return FlowEvents{
		Remembered:         sums[lbFlowEventFLOW_REMEMBERED],
		EvictedClosing:     sums[lbFlowEventFLOW_EVICTED_CLOSING],
		EvictedPrior:       sums[lbFlowEventFLOW_EVICTED_PRIOR],
		EvictedEmbryonic:   sums[lbFlowEventFLOW_EVICTED_EMBRYONIC],
		EvictedConnections: sums[lbFlowEventFLOW_EVICTED_CONNECTION],
		Unremembered:       sums[lbFlowEventFLOW_UNREMEMBERED],
		Opened:             sums[lbFlowEventNAT_OPENED],
		EvictedOpen:        sums[lbFlowEventNAT_EVICTED],
		Exhausted:          sums[lbFlowEventNAT_EXHAUSTED],
	}, nil
}

// Flows is what the last sweep found, by name.
type Flows struct {
	Table    model.FlowTable
	VIPs     map[string]VIPFlows
	Backends map[BackendKey]BackendFlows
	// SlotsInFlux by pool.
	SlotsInFlux map[string]uint32
}

// VIPFlows are the flows of a VIP.
type VIPFlows struct {
	Live uint64
	// InFlux while flows may be on the pool that the VIP had before.
	InFlux bool
}

// BackendFlows are the flows of a backend.
type BackendFlows struct {
	Live uint64
	// Named while a slot has the backend as owner or prior: flows of it may be
	// alive that have not shown themselves.
	Named bool
}

// Flows tells what is known of flows.
func (p *Plane) Flows() Flows {
	f := Flows{
		Table: model.FlowTable{
			Live: p.stats.Live, Capacity: uint64(len(p.flows.elements) * flowsPerBucket),
			SlotsInFlux: uint64(p.SlotsInFlux()), Sweeps: p.stats.Sweeps, Entries: p.stats.Entries, Took: p.stats.Took,
			Remembered: p.events.Remembered, EvictedConnections: p.events.EvictedConnections, Unremembered: p.events.Unremembered,
			Evicted: p.events.EvictedClosing + p.events.EvictedPrior + p.events.EvictedEmbryonic,
		},
		VIPs:        make(map[string]VIPFlows, len(p.applied.vips)),
		Backends:    map[BackendKey]BackendFlows{},
		SlotsInFlux: make(map[string]uint32, len(p.applied.places)),
	}
	for name, v := range p.applied.vips {
		f.VIPs[name] = VIPFlows{Live: uint64(p.liveVIPs[v.id]), InFlux: v.prior != nil}
	}
	for _, at := range p.allPlaces() {
		for id, owner := range at.owners {
			key := BackendKey{at.pool, id}
			was := f.Backends[key]
			f.Backends[key] = BackendFlows{
				Live:  was.Live + uint64(p.liveBackends[at.base()+owner]),
				Named: was.Named || at.table.Names(owner),
			}
		}
		f.SlotsInFlux[at.pool] += uint32(at.table.InFlux())
	}
	return f
}
