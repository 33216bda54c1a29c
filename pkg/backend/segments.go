package backend

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a tunnel adds, and what of a packet is no TCP segment, in bytes.
const (
	ipv4Header, ipv6Header = 20, 40
	gueHeaders             = 8 + 4
	tcpHeader              = 20
)

// ordinaryMTU is what hosts on Ethernet send, and so most clients.
const ordinaryMTU = 1500

// adviseSegments tells where this host invites TCP clients to send packets that do
// not fit through the tunnel. A host announces the segments that its own interface
// could take, and knows nothing of the tunnel on the way. Only the answering end
// can announce less: under direct server return no answer passes the balancer.
//
// The setting is a metric of the routes to the clients, advmss. Those are the
// host's, come from DHCP or a routing daemon, and carry all its other connections,
// so Run says what to set and leaves them alone.
func (h *host) adviseSegments() error {
	mtu := h.links[0].Attrs().MTU
	for _, l := range h.links {
		mtu = min(mtu, l.Attrs().MTU)
	}
	room := mtu - h.tunnelHeaders()
	if room >= ordinaryMTU {
		return nil
	}
	for _, f := range []struct {
		family, header int
		name           string
		has            func(netip.Addr) bool
	}{
		{unix.AF_INET, ipv4Header, "IPv4", netip.Addr.Is4},
		{unix.AF_INET6, ipv6Header, "IPv6", netip.Addr.Is6},
	} {
		if !slices.ContainsFunc(h.VIPs, f.has) {
			continue
		}
		mss := room - f.header - tcpHeader
		announced, err := h.announces(f.family, mss)
		if err != nil {
			return err
		}
		if !announced {
			h.Say("advice: with an MTU of %d here, TCP packets of clients fit through the tunnel if this host announces segments of %d bytes: give its %s routes 'advmss %[2]d'; without it, each connection depends on the client's path MTU discovery", mtu, mss, f.name)
		}
	}
	return nil
}

// tunnelHeaders is what the largest tunnel of a configured balancer adds, in bytes.
func (o *Options) tunnelHeaders() int {
	headers := ipv4Header
	for _, p := range o.Balancers {
		if p.Addr().Is6() {
			headers = ipv6Header
		}
	}
	if o.GUEPort != 0 {
		headers += gueHeaders
	}
	return headers
}

// announces reports whether the host's default routes of a family announce no
// segments larger than mss.
func (h *host) announces(family, mss int) (bool, error) {
	routes, err := patiently(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	})
	if err != nil {
		return false, fmt.Errorf("list default routes: %w", err)
	}
	return len(routes) > 0 && !slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.AdvMSS == 0 || r.AdvMSS > mss
	}), nil
}
