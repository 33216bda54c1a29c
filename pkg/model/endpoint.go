package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// PortRange is a range of ports, First to Last in host byte order, both 1 to
// 65535. The zero value stands for every port.
type PortRange struct{ First, Last uint16 }

// Port is the range of one port.
func Port(port uint16) PortRange { return PortRange{port, port} }

// Any reports whether the range is every port.
func (r PortRange) Any() bool { return r == PortRange{} }

// Single reports whether the range is one port.
func (r PortRange) Single() bool { return r.First == r.Last && !r.Any() }

// Contains reports whether a port is in the range.
func (r PortRange) Contains(port uint16) bool {
	return r.Any() || r.First <= port && port <= r.Last
}

// precedence orders ranges by how much they say: one port, several, any.
func (r PortRange) precedence() int {
	switch {
	case r.Single():
		return 0
	case r.Any():
		return 2
	}
	return 1
}

// clashes reports whether neither range takes precedence where they overlap.
func (r PortRange) clashes(other PortRange) bool {
	return r.precedence() == other.precedence() && (r.Any() || r.First <= other.Last && other.First <= r.Last)
}

// String renders "80", "8000-8100", "any".
func (r PortRange) String() string {
	switch {
	case r.Any():
		return "any"
	case r.Single():
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// ParsePortRange is the inverse of [PortRange.String].
func ParsePortRange(s string) (PortRange, error) {
	if s == "any" {
		return PortRange{}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, errFirst := strconv.ParseUint(first, 10, 16)
	b, errLast := strconv.ParseUint(last, 10, 16)
	switch {
	case errFirst != nil || errLast != nil || a == 0:
		return PortRange{}, fmt.Errorf("%q is not a port: want 1 to 65535, a range such as 8000-8100, or any", s)
	case a > b:
		return PortRange{}, fmt.Errorf("the port range %q ends before it begins", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

// Endpoint is where clients connect to: an address and ports on it.
type Endpoint struct {
	// Address is a unicast IPv4 or IPv6 address, never IPv4-mapped, no zone.
	Address netip.Addr
	// Ports: one port takes precedence over a range with others, and that over
	// any.
	Ports PortRange
}

// Compare orders by address, then ports.
func (e Endpoint) Compare(other Endpoint) int {
	return cmp.Or(e.Address.Compare(other.Address), cmp.Compare(e.Ports.First, other.Ports.First), cmp.Compare(e.Ports.Last, other.Ports.Last))
}

// String renders "192.0.2.1:80", "192.0.2.1:8000-8100", "[2001:db8::1]:any".
func (e Endpoint) String() string {
	host := e.Address.String()
	if e.Address.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + e.Ports.String()
}

// ParseEndpoint is the inverse of [Endpoint.String].
func ParseEndpoint(s string) (Endpoint, error) {
	colon := strings.LastIndexByte(s, ':')
	host := s
	if colon >= 0 {
		host = s[:colon]
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	addr, err := netip.ParseAddr(bare)
	if colon < 0 || err != nil || addr.Is6() != strings.HasPrefix(host, "[") || (bare != host) != (len(bare)+2 == len(host)) {
		return Endpoint{}, fmt.Errorf("%q is not an endpoint: want an address and a port, a range of ports or any, such as 192.0.2.10:80, 192.0.2.10:8000-8100 or [2001:db8::10]:any", s)
	}
	ports, err := ParsePortRange(s[colon+1:])
	if err != nil {
		return Endpoint{}, fmt.Errorf("endpoint %q: %w", s, err)
	}
	return Endpoint{addr, ports}, nil
}

// FormatEndpoint renders an address and a port in host byte order; port 0 reads "any".
func FormatEndpoint(addr netip.Addr, port uint16) string {
	return Endpoint{addr, PortRange{port, port}}.String()
}
