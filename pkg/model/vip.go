package model

import (
	"fmt"
	"time"
)

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The transport protocols that a VIP can carry.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// ParseProtocol accepts "tcp" and "udp".
func ParseProtocol(s string) (Protocol, error) {
	return parseEnum("protocol", s, []Protocol{TCP, UDP})
}

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// Mode is a forwarding mode: how a packet is rewritten on its way to a backend.
type Mode uint8

// The forwarding modes.
const (
	// ModeDSRL2 rewrites the destination MAC; the backend must be on-link.
	ModeDSRL2 Mode = iota + 1
	// ModeDSRIPIP encapsulates in IPv4 or IPv6 (RFC 2003, RFC 2473, RFC 4213);
	// the outer family is the backend's.
	ModeDSRIPIP
	// ModeDSRGUE encapsulates in UDP (draft-ietf-intarea-gue, version 0) over
	// IPv4 or IPv6, so that networks and NICs on the way spread the flows.
	ModeDSRGUE
	// ModeNAT rewrites the destination to the backend's address and port. The
	// balancer is the backends' gateway: replies come back through it, and a
	// backend's address and port tell the endpoint that they are from.
	ModeNAT
	// ModeFullNAT rewrites source and destination, so that replies come back to
	// the balancer from anywhere; the families of VIP and backend may differ.
	ModeFullNAT
)

// ParseMode accepts "dsr-l2", "dsr-ipip", "dsr-gue", "nat" and "fullnat".
func ParseMode(s string) (Mode, error) {
	return parseEnum("forwarding mode", s, []Mode{ModeDSRL2, ModeDSRIPIP, ModeDSRGUE, ModeNAT, ModeFullNAT})
}

func (m Mode) String() string {
	switch m {
	case ModeDSRL2:
		return "dsr-l2"
	case ModeDSRIPIP:
		return "dsr-ipip"
	case ModeDSRGUE:
		return "dsr-gue"
	case ModeNAT:
		return "nat"
	case ModeFullNAT:
		return "fullnat"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// TranslatesPort reports whether backends of this mode may listen on a port
// other than the VIP's. Under direct server return they cannot: the backend
// answers the client itself, from the port that the client addressed.
func (m Mode) TranslatesPort() bool { return m.Translates() }

// Translates reports whether the balancer is between client and backend both ways.
func (m Mode) Translates() bool { return m == ModeNAT || m == ModeFullNAT }

// Tracking says which flows of a VIP the flow table remembers.
type Tracking uint8

// The ways to track.
const (
	// TrackingFlux remembers flows of slots in flux, and nothing otherwise. Of
	// a protocol without openers it remembers nothing at all: packets go to
	// their slot's owner. The default for TCP, and right for DNS.
	TrackingFlux Tracking = iota + 1
	// TrackingAlways remembers every flow. The default for UDP, and all that is
	// possible under [ModeFullNAT].
	TrackingAlways
	// TrackingNone remembers nothing: a change of the pool moves the flows of
	// the slots that change.
	TrackingNone
)

// ParseTracking accepts "flux", "always" and "none".
func ParseTracking(s string) (Tracking, error) {
	return parseEnum("tracking", s, []Tracking{TrackingFlux, TrackingAlways, TrackingNone})
}

func (t Tracking) String() string {
	switch t {
	case TrackingFlux:
		return "flux"
	case TrackingAlways:
		return "always"
	case TrackingNone:
		return "none"
	}
	return fmt.Sprintf("tracking(%d)", uint8(t))
}

// Bounds and default of a VIP's idle timeout.
const (
	DefaultIdleTimeout = 15 * time.Minute
	MinIdleTimeout     = time.Second
	MaxIdleTimeout     = 24 * time.Hour
)

// Bounds of the maximum segment size that a VIP grants.
const (
	MinMSS = 536   // RFC 9293, section 3.7.1
	MaxMSS = 65495 // of an IPv4 packet of 65535 bytes
)

// MaxSYNRate is the highest rate of a VIP's SYNs that can be told apart from any.
const MaxSYNRate = 10_000_000

// MaxEndpoints is the most endpoints of one VIP.
const MaxEndpoints = 1024

// VIP is what clients connect to.
type VIP struct {
	// Name is unique among VIPs; see [ValidateName].
	Name string
	// Endpoints are 1 to [MaxEndpoints], sorted by [Endpoint.Compare].
	Endpoints []Endpoint
	Protocol  Protocol
	Mode      Mode
	// Pool names the pool that serves the VIP.
	Pool     string
	Tracking Tracking
	// IdleTimeout is how long a flow may be silent and still be kept,
	// [MinIdleTimeout] to [MaxIdleTimeout].
	IdleTimeout time.Duration
	Affinity    Affinity
	Fragments   FragmentPolicy
	// MSS is the largest maximum segment size that clients' SYNs may carry to
	// backends, [MinMSS] to [MaxMSS]; 0 leaves it as it is. TCP only.
	MSS uint16
	// QUIC says that UDP carries QUIC: Initials start flows, and connection IDs
	// that name a backend lead to it.
	QUIC bool
	// SYNCookies is how many SYNs in a second may begin connections; what is above is
	// answered with a cookie. 1 to [MaxSYNRate], 0: all may. TCP that is translated only.
	SYNCookies uint32
	// Sources are whom the VIP is for; those of the node come on top.
	Sources Sources
	// Limits are how much of it may come.
	Limits Limits
}

// DefaultTracking is how the VIP tracks if it is not said.
func (v *VIP) DefaultTracking() Tracking {
	if v.HasOpeners() && v.Mode != ModeFullNAT {
		return TrackingFlux
	}
	return TrackingAlways
}

// HasOpeners reports whether the VIP's protocol tells which packets start a flow.
func (v *VIP) HasOpeners() bool { return v.Protocol == TCP || v.QUIC }

// Service renders "192.0.2.1:80/tcp", and of several endpoints the first:
// "192.0.2.1:80/tcp and 2 more".
func (v *VIP) Service() string {
	if len(v.Endpoints) == 0 {
		return "no endpoint/" + v.Protocol.String()
	}
	first := v.Endpoints[0].String() + "/" + v.Protocol.String()
	if more := len(v.Endpoints) - 1; more > 0 {
		return fmt.Sprintf("%s and %d more", first, more)
	}
	return first
}

// OnePort returns the port if the VIP has the same single one on all its addresses.
func (v *VIP) OnePort() (uint16, bool) {
	for _, e := range v.Endpoints {
		if !e.Ports.Single() || e.Ports != v.Endpoints[0].Ports {
			return 0, false
		}
	}
	if len(v.Endpoints) == 0 {
		return 0, false
	}
	return v.Endpoints[0].Ports.First, true
}
