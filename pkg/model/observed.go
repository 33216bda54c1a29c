package model

import (
	"fmt"
	"time"
)

// Health is what the checks found.
type Health uint8

// The healths of a backend.
const (
	// HealthUnknown is not yet checked.
	HealthUnknown Health = iota
	HealthUp
	HealthDown
)

func (h Health) String() string {
	switch h {
	case HealthUnknown:
		return "unknown"
	case HealthUp:
		return "up"
	case HealthDown:
		return "down"
	}
	return fmt.Sprintf("health(%d)", uint8(h))
}

// Counters of a VIP or a backend since the data plane was loaded.
type Counters struct {
	Packets, Bytes uint64
	// Connections counts openers: TCP SYNs without ACK, QUIC Initials.
	Connections uint64
}

// Status is what is observed: of the node, and of everything it was asked for.
type Status struct {
	Version string
	Started time.Time
	// Revision of the desired state; Applied is the one that the data plane
	// has. They differ only while a change is on its way or fails.
	Revision, Applied uint64
	// Error says why Applied lags, or what else is being tried again, empty while
	// all is well.
	Error      string
	Interfaces []InterfaceStatus
	VIPs       []VIPStatus
	Pools      []PoolStatus
	// Reasons counts every way out of the packet path, in a fixed order.
	Reasons   []Reason
	Flows     FlowTable
	Fragments FragmentTable
	NAT       NATPorts
	Maps      []MapUse
}

// InterfaceStatus says how the program is attached.
type InterfaceStatus struct {
	Name string
	// Mode is "native" or "generic".
	Mode string
	// Warning is what the operator should know, or empty.
	Warning string
}

// VIPStatus is a VIP with its counters.
type VIPStatus struct {
	VIP
	// Available while at least one backend takes new flows.
	Available bool
	// InFlux while flows may be on the pool that the VIP had before.
	InFlux bool
	// Flows that the flow table holds.
	Flows uint64
	// Dropped counts its packets that were screened, denied or over a limit, in a fixed
	// order.
	Dropped []Reason
	// Observed counts what limits that only observe would have dropped, by the reason that
	// it would have had; Forgotten sources that limits had no room for.
	Observed  []Reason
	Forgotten uint64
	Counters
}

// PoolStatus is a pool with its backends, in the pool's order.
type PoolStatus struct {
	Name      string
	TableSize uint32
	OnAllDown OnAllDown
	// SlotsInFlux of TableSize.
	SlotsInFlux uint32
	Backends    []BackendStatus
}

// BackendStatus is a backend with everything known of it.
type BackendStatus struct {
	Backend
	Health Health
	// Since is when Health last changed.
	Since  time.Time
	Checks []CheckStatus
	// Slots it owns in its pool's table.
	Slots uint32
	// Flows that the flow table holds. While slots are settled it holds none.
	Flows uint64
	// Counted are those flows that count against MaxConnections, as of the last sweep, 0 if
	// it has no limit. Full while it has no room for others.
	Counted uint64
	Full    bool
	// KeepsFlows while it gets packets of the flows that it has; Named while
	// flows of it may be alive that the flow table has not seen yet.
	KeepsFlows, Named bool
	NextHop           NextHop
	Counters
}

// CheckStatus is the state of one check of one backend.
type CheckStatus struct {
	Name   string
	Health Health
	// Result of the last probe in HAProxy's words, such as L4OK or L7STS.
	Result string
	// Detail explains it, such as "connection refused".
	Detail string
	// Since is when Health last changed; Checked when the last probe ended.
	Since, Checked time.Time
	// Duration of the last probe.
	Duration time.Duration
	// Reason of the last change of Health.
	Reason string
}

// NextHop is how packets leave for a backend.
type NextHop struct {
	// Interface it leaves through, VLAN its tag there or 0.
	Interface string
	VLAN      uint16
	// MAC of the next hop, "" while unresolved.
	MAC string
	// Problem says why it cannot be reached, or is empty.
	Problem string
}

// FlowTable is what the last sweep found, and what happened since the start.
type FlowTable struct {
	// Live entries of Capacity.
	Live, Capacity uint64
	SlotsInFlux    uint64
	// Sweeps so far; the last one looked at Entries in Took of processor time.
	Sweeps, Entries uint64
	Took            time.Duration
	// Remembered counts new entries; Evicted those that gave way although
	// their flow could be found again. EvictedConnections and Unremembered
	// count flows that may break at the next change: alarms.
	Remembered, Evicted              uint64
	EvictedConnections, Unremembered uint64
}

// NATPorts is what connections of fullnat have of the ports that they come from, as of
// the last sweep, and what happened since the start.
type NATPorts struct {
	// Used ports of Capacity, over all addresses and both protocols.
	Used, Capacity uint64
	// Opened counts connections; Evicted those whose port went to another although they
	// might have gone on: they had no answer yet, or had ended less than a minute ago.
	Opened, Evicted uint64
	// Exhausted counts packets that began no connection for want of a port: an alarm.
	Exhausted uint64
}

// FragmentTable is what happened to the fragment table since it was made.
type FragmentTable struct {
	// Remembered counts packets in fragments, Evicted those that gave way while
	// fragments of theirs might still come.
	Remembered, Evicted uint64
}

// Reason is one way out of the packet path with its count of packets.
type Reason struct {
	Name    string
	Packets uint64
}

// MapUse is how full one of the data plane's maps is.
type MapUse struct {
	Name string
	// Used and Capacity in entries, Bytes of memory.
	Used, Capacity, Bytes uint64
}
