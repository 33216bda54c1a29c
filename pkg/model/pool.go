package model

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// Limits of a pool.
const (
	// DefaultTableSize is the number of slots of a pool that names none: the
	// small table of the Maglev paper (section 5.3).
	DefaultTableSize = 65537
	// MinTableSize and MaxTableSize bound a pool's slots.
	MinTableSize = 251
	MaxTableSize = 16777213
	// SlotsPerBackend is the fewest slots a table must have for each backend,
	// so that no share is off by more than about a tenth.
	SlotsPerBackend = 20
	// MaxBackends is the most backends of one pool: a slot names its owner in
	// 15 bits, and two values are reserved.
	MaxBackends = 1<<15 - 2
	// MaxWeight is the largest weight.
	MaxWeight = math.MaxUint16
	// DefaultWeight is the weight of a backend that names none.
	DefaultWeight = 1
	// MaxMaxConnections is the largest limit of connections of a backend.
	MaxMaxConnections = 1 << 24
	// DefaultDownGrace and MaxDownGrace bound how long a backend that is down
	// keeps its flows.
	DefaultDownGrace = 30 * time.Second
	MaxDownGrace     = time.Hour
	// MaxSlowStart bounds the time in which a backend grows to its share.
	MaxSlowStart = time.Hour
)

// OnAllDown says what new packets meet when no backend of a pool is up.
type OnAllDown uint8

// The choices for a pool with no backend left.
const (
	// OnAllDownDrop drops the packet.
	OnAllDownDrop OnAllDown = iota + 1
	// OnAllDownReset answers TCP with a RST and drops everything else.
	OnAllDownReset
	// OnAllDownLastKnown keeps the last table that had a backend.
	OnAllDownLastKnown
)

// ParseOnAllDown accepts "drop", "reset" and "last-known".
func ParseOnAllDown(s string) (OnAllDown, error) {
	return parseEnum("on_all_down", s, []OnAllDown{OnAllDownDrop, OnAllDownReset, OnAllDownLastKnown})
}

func (o OnAllDown) String() string {
	switch o {
	case OnAllDownDrop:
		return "drop"
	case OnAllDownReset:
		return "reset"
	case OnAllDownLastKnown:
		return "last-known"
	}
	return fmt.Sprintf("on_all_down(%d)", uint8(o))
}

// AdminState is what the operator wants of a backend.
type AdminState uint8

// The administrative states.
const (
	// Enabled takes new flows.
	Enabled AdminState = iota + 1
	// Draining keeps its flows and gets no new ones.
	Draining
	// Disabled gets nothing.
	Disabled
)

// ParseAdminState accepts "enabled", "draining" and "disabled".
func ParseAdminState(s string) (AdminState, error) {
	return parseEnum("state", s, []AdminState{Enabled, Draining, Disabled})
}

func (s AdminState) String() string {
	switch s {
	case Enabled:
		return "enabled"
	case Draining:
		return "draining"
	case Disabled:
		return "disabled"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// BackendID identifies a backend within its pool. Every balancer of a fleet
// sorts backends by it, so that all build the same table.
type BackendID struct {
	Address netip.Addr
	// Port in host byte order; 0 means the port that the client addressed.
	Port uint16
}

// Compare orders by address, then port.
func (id BackendID) Compare(other BackendID) int {
	return cmp.Or(id.Address.Compare(other.Address), cmp.Compare(id.Port, other.Port))
}

// String renders "10.0.1.10", "10.0.1.10:8080", "2001:db8::10", "[2001:db8::10]:8080".
func (id BackendID) String() string {
	if id.Port == 0 {
		return id.Address.String()
	}
	return FormatEndpoint(id.Address, id.Port)
}

// ParseBackendID is the inverse of [BackendID.String].
func ParseBackendID(s string) (BackendID, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return BackendID{Address: addr}, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return BackendID{}, fmt.Errorf("%q is not a backend: want an address, or an address and a port, such as 10.0.1.10, 10.0.1.10:8080 or [2001:db8::10]:8080", s)
	}
	return BackendID{Address: ap.Addr(), Port: ap.Port()}, nil
}

// Backend is a server of a pool.
type Backend struct {
	BackendID
	// Weight is the backend's share in proportion to the others', 0 to
	// [MaxWeight]; 0 means no new flows.
	Weight uint32
	State  AdminState
	// MaxConnections is how many it may have at once, 1 to [MaxMaxConnections]; 0: any
	// number. VIPs that use its pool must remember every connection.
	MaxConnections uint32
	// Drain says how a [Draining] backend ends; zero for all others.
	Drain Drain
	// ServerIDs name the backend in QUIC connection IDs, one for each
	// configuration, sorted by it.
	ServerIDs []ServerID
}

// Drain says when draining ends and what then becomes of the backend. It ends when
// no flow is left, at the latest at the deadline.
type Drain struct {
	// Since is when it began.
	Since time.Time
	// Deadline is when flows that are left are given up, zero for never.
	Deadline time.Time
	// Remove takes the backend out of its pool in the end, instead of disabling it.
	Remove bool
}

// Pool is a named set of backends that share one Maglev table and one set of checks.
type Pool struct {
	// Name is unique among pools; see [ValidateName].
	Name string
	// TableSize is the number of slots, a prime.
	TableSize uint32
	OnAllDown OnAllDown
	// DownGrace is how long a backend that checks call down keeps its flows, 0 to
	// [MaxDownGrace]: a check that flaps breaks nothing.
	DownGrace time.Duration
	// SlowStart is the time over which a backend that comes up grows to its
	// share, 0 to [MaxSlowStart]; 0: at once.
	SlowStart time.Duration
	// Checks are sorted by name. A backend is up while all of them pass; with
	// none, it is always up.
	Checks []Check
	// Backends are sorted by [BackendID.Compare].
	Backends []Backend
}

// Backend returns the backend with that identity.
func (p *Pool) Backend(id BackendID) (*Backend, bool) {
	for i := range p.Backends {
		if p.Backends[i].BackendID == id {
			return &p.Backends[i], true
		}
	}
	return nil, false
}

// Check returns the check of that name.
func (p *Pool) Check(name string) (*Check, bool) {
	for i := range p.Checks {
		if p.Checks[i].Name == name {
			return &p.Checks[i], true
		}
	}
	return nil, false
}
