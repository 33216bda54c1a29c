package model

import (
	"fmt"
	"net/netip"
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
)

// ParseMode accepts "dsr-l2" and "dsr-ipip".
func ParseMode(s string) (Mode, error) {
	return parseEnum("forwarding mode", s, []Mode{ModeDSRL2, ModeDSRIPIP})
}

func (m Mode) String() string {
	switch m {
	case ModeDSRL2:
		return "dsr-l2"
	case ModeDSRIPIP:
		return "dsr-ipip"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// TranslatesPort reports whether backends of this mode may listen on a port
// other than the VIP's. Under direct server return they cannot: the backend
// answers the client itself, from the port that the client addressed.
func (m Mode) TranslatesPort() bool { return false }

// Tracking says which flows of a VIP the flow table remembers.
type Tracking uint8

// The ways to track.
const (
	// TrackingFlux remembers flows of slots in flux, and nothing otherwise. Of
	// a protocol without openers it remembers nothing at all: packets go to
	// their slot's owner. The default for TCP, and right for DNS.
	TrackingFlux Tracking = iota + 1
	// TrackingAlways remembers every flow. The default for UDP.
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

// DefaultTracking is how a VIP of that protocol tracks if it is not said.
func DefaultTracking(p Protocol) Tracking {
	if p == UDP {
		return TrackingAlways
	}
	return TrackingFlux
}

// VIP is what clients connect to.
type VIP struct {
	// Name is unique among VIPs; see [ValidateName].
	Name string
	// Address is a unicast IPv4 or IPv6 address, never IPv4-mapped, no zone.
	Address  netip.Addr
	Protocol Protocol
	// Port in host byte order; 0 means any port. A VIP with a port takes
	// precedence over one with any port on the same address and protocol.
	Port uint16
	Mode Mode
	// Pool names the pool that serves the VIP.
	Pool     string
	Tracking Tracking
	// IdleTimeout is how long a flow may be silent and still be kept,
	// [MinIdleTimeout] to [MaxIdleTimeout].
	IdleTimeout time.Duration
}

// Endpoint renders "192.0.2.1:80/tcp", "[2001:db8::1]:any/udp".
func (v VIP) Endpoint() string {
	return FormatEndpoint(v.Address, v.Port) + "/" + v.Protocol.String()
}

// FormatEndpoint renders an address and a port in host byte order; port 0 reads "any".
func FormatEndpoint(addr netip.Addr, port uint16) string {
	host := addr.String()
	if addr.Is6() {
		host = "[" + host + "]"
	}
	if port == 0 {
		return host + ":any"
	}
	return fmt.Sprintf("%s:%d", host, port)
}
