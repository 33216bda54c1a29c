package neighbor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// route is the kernel's answer for one address.
type route struct {
	// link is the output device's index. A route with a problem keeps that of
	// the last one without.
	link int
	// nextHop is the gateway, of either family, or the address itself.
	nextHop netip.Addr
	// source is the preferred source address; mtu the route's in bytes or 0.
	source  netip.Addr
	mtu     int
	problem string
}

// lookup asks the kernel for the route to an address, as for a packet that
// the host itself sends, so policy routing is honoured.
func lookup(kernel *netlink.Handle, addr netip.Addr) route {
	found, err := kernel.RouteGet(addr.AsSlice())
	if err != nil {
		return route{problem: routeError(addr, err)}
	}
	if len(found) == 0 {
		return route{problem: fmt.Sprintf("no route to %s", addr)}
	}
	r := &found[0]
	if problem := routeProblem(addr, r); problem != "" {
		return route{problem: problem}
	}
	return route{link: r.LinkIndex, nextHop: gateway(addr, r), source: toAddr(r.Src), mtu: r.MTU}
}

// routeError translates the errors with which the kernel answers for routes
// that discard, see fib_props in its net/ipv4/fib_semantics.c.
func routeError(addr netip.Addr, err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case unix.ENETUNREACH:
			return fmt.Sprintf("no route to %s", addr)
		case unix.EHOSTUNREACH:
			return fmt.Sprintf("the route to %s is of type unreachable", addr)
		case unix.EACCES:
			return fmt.Sprintf("the route to %s is of type prohibit", addr)
		case unix.EINVAL:
			return fmt.Sprintf("the route to %s is of type blackhole", addr)
		}
	}
	return fmt.Sprintf("looking up the route to %s failed: %v", addr, err)
}

// routeProblem says why a route cannot carry packets for a backend, or is empty.
func routeProblem(addr netip.Addr, r *netlink.Route) string {
	kind := ""
	switch r.Type {
	case unix.RTN_UNICAST:
		if r.Encap != nil || r.NewDst != nil {
			return fmt.Sprintf("the route to %s leads through a tunnel (%s)", addr, r)
		}
		return ""
	case unix.RTN_LOCAL:
		return fmt.Sprintf("%s is an address of this host", addr)
	case unix.RTN_BLACKHOLE:
		kind = "blackhole"
	case unix.RTN_UNREACHABLE:
		kind = "unreachable"
	case unix.RTN_PROHIBIT:
		kind = "prohibit"
	case unix.RTN_BROADCAST:
		kind = "broadcast"
	case unix.RTN_MULTICAST:
		kind = "multicast"
	case unix.RTN_ANYCAST:
		kind = "anycast"
	default:
		kind = fmt.Sprint(r.Type)
	}
	return fmt.Sprintf("the route to %s is of type %s", addr, kind)
}

// gateway is the next hop of a route: RTA_GATEWAY, RTA_VIA (an IPv4 route
// through an IPv6 next hop, RFC 5549), or the address itself.
func gateway(addr netip.Addr, r *netlink.Route) netip.Addr {
	if gw := toAddr(r.Gw); gw.IsValid() && !gw.IsUnspecified() {
		return gw
	}
	if via, ok := r.Via.(*netlink.Via); ok {
		if gw := toAddr(via.Addr); gw.IsValid() {
			return gw
		}
	}
	return addr
}

func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
