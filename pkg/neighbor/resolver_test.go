package neighbor

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// family is one column of the tests that hold for IPv4 and IPv6 alike.
type family struct {
	name string
	// onLink is a backend of peer1, behind one behind a gateway, dead an
	// address on eth1 that nobody has; gateways and sources are those of eth1
	// and eth2.
	onLink, behind, dead, network string
	gateways, sources             [2]string
	bits                          int
}

func families(t *testing.T, f func(t *testing.T, f family)) {
	for _, column := range []family{
		{"IPv4", "10.0.1.10", "198.51.100.10", "10.0.1.99", "198.51.100.0/24",
			[2]string{"10.0.1.254", "10.0.2.254"}, [2]string{"10.0.1.1", "10.0.2.1"}, 24},
		{"IPv6", "2001:db8:1::10", "2001:db8:100::10", "2001:db8:1::99", "2001:db8:100::/64",
			[2]string{"2001:db8:1::fe", "2001:db8:2::fe"}, [2]string{"2001:db8:1::1", "2001:db8:2::1"}, 64},
	} {
		t.Run(column.name, func(t *testing.T) { f(t, column) })
	}
}

// hop is the one through a link of the lab, 1 or 2.
func (l *lab) hop(f family, n int, onLink bool) Hop {
	eth := fmt.Sprintf("eth%d", n)
	return Hop{
		Link:        l.balancer.link(eth).Attrs().Index,
		Interface:   eth,
		Source:      l.balancer.mac(eth),
		Destination: l.peer.mac(fmt.Sprintf("peer%d", n)),
		OnLink:      onLink,
		SourceIP:    netip.MustParseAddr(f.sources[n-1]),
		MTU:         1500,
	}
}

func (l *lab) entry(addr string) *netlink.Neigh {
	ip := netip.MustParseAddr(addr)
	return &netlink.Neigh{LinkIndex: l.balancer.link("eth1").Attrs().Index, IP: ip.AsSlice()}
}

func (l *lab) deleteEntry(addr string) {
	l.balancer.t.Helper()
	l.balancer.must(l.balancer.NeighDel(l.entry(addr)))
}

func TestResolves(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		l.balancer.route(f.network, f.gateways[0])
		r := l.resolver(t, f.onLink, f.behind, f.sources[0], "203.0.113.1", "2001:db8:ffff::1")
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
		waitHop(t, r, f.behind, l.hop(f, 1, false))
		waitProblem(t, r, f.sources[0], f.sources[0]+" is an address of this host")
		waitProblem(t, r, "203.0.113.1", "no route to 203.0.113.1")
		waitProblem(t, r, "2001:db8:ffff::1", "no route to 2001:db8:ffff::1")
	})
}

func TestSetReplacesTheWholeSet(t *testing.T) {
	l := newLab(t)
	r := l.resolver(t, "10.0.1.10", "10.0.1.254")
	wait(t, r, "10.0.1.10", "resolved", resolvedHop)
	before := wait(t, r, "10.0.1.254", "resolved", resolvedHop)
	old := r.Table()
	set(r, "::ffff:10.0.1.254", "2001:db8:1::10")
	wait(t, r, "2001:db8:1::10", "resolved", resolvedHop)
	now := r.Table()
	if len(now) != 2 || now[netip.MustParseAddr("10.0.1.254")] != before {
		t.Errorf("after the change: %+v", now)
	}
	if len(old) != 2 || old[netip.MustParseAddr("10.0.1.10")].Problem != "" {
		t.Errorf("a published table changed: %+v", old)
	}
	set(r)
	for len(r.Table()) > 0 {
		<-r.Changed()
	}
}

func resolvedHop(h Hop) bool { return h.Problem == "" }

func TestRouteMoves(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		l.balancer.route(f.network, f.gateways[0])
		r := l.resolver(t, f.behind)
		waitHop(t, r, f.behind, l.hop(f, 1, false))

		l.balancer.route(f.network, f.gateways[1])
		waitHop(t, r, f.behind, l.hop(f, 2, false))

		l.balancer.route(f.network, f.gateways[1], func(r *netlink.Route) { r.MTU = 1400 })
		short := l.hop(f, 2, false)
		short.MTU = 1400
		waitHop(t, r, f.behind, short)

		for _, kind := range []struct {
			number int
			name   string
		}{{unix.RTN_BLACKHOLE, "blackhole"}, {unix.RTN_UNREACHABLE, "unreachable"}, {unix.RTN_PROHIBIT, "prohibit"}} {
			l.balancer.route(f.behind+"/"+fmt.Sprint(netip.MustParseAddr(f.behind).BitLen()), "",
				func(r *netlink.Route) { r.Type = kind.number })
			waitProblem(t, r, f.behind, fmt.Sprintf("the route to %s is of type %s", f.behind, kind.name))
		}
	})
}

func TestPolicyRouting(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		l.balancer.route(f.network, f.gateways[0])
		l.balancer.route(f.network, f.gateways[1], func(r *netlink.Route) { r.Table = 100 })
		r := l.resolver(t, f.behind)
		waitHop(t, r, f.behind, l.hop(f, 1, false))
		rule := netlink.NewRule()
		rule.Family = netlink.FAMILY_V4
		if f.name == "IPv6" {
			rule.Family = netlink.FAMILY_V6
		}
		rule.Table, rule.Priority = 100, 50
		l.balancer.must(l.balancer.RuleAdd(rule))
		waitHop(t, r, f.behind, l.hop(f, 2, false))
		l.balancer.must(l.balancer.RuleDel(rule))
		waitHop(t, r, f.behind, l.hop(f, 1, false))
	})
}

func TestIPv4RouteThroughIPv6Gateway(t *testing.T) {
	l := newLab(t)
	l.balancer.route("198.51.100.0/24", "", func(r *netlink.Route) {
		r.LinkIndex = l.balancer.link("eth2").Attrs().Index
		r.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: netip.MustParseAddr("2001:db8:2::fe").AsSlice()}
	})
	r := l.resolver(t, "198.51.100.10")
	waitHop(t, r, "198.51.100.10", l.hop(family{sources: [2]string{1: "10.0.2.1"}}, 2, false))
}

func TestNeighbourThatNeverAnswers(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		r := l.resolver(t, f.dead, f.onLink)
		waitProblem(t, r, f.dead, fmt.Sprintf("neighbour %s on eth1 does not answer", f.dead))
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
		l.peer.addr("peer1", fmt.Sprintf("%s/%d", f.dead, f.bits))
		waitHop(t, r, f.dead, l.hop(f, 1, true))
	})
}

func TestNeighbourDies(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		r := l.resolver(t, f.onLink)
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
		l.peer.delAddr("peer1", fmt.Sprintf("%s/%d", f.onLink, f.bits))
		l.deleteEntry(f.onLink)
		waitProblem(t, r, f.onLink, fmt.Sprintf("neighbour %s on eth1 does not answer", f.onLink))
	})
}

func TestNeighbourMovesToAnotherMAC(t *testing.T) {
	const mac = "02:00:00:00:00:99"
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		r := l.resolver(t, f.onLink)
		waitHop(t, r, f.onLink, l.hop(f, 1, true))

		// The administrator says so.
		permanent := l.entry(f.onLink)
		permanent.State = netlink.NUD_PERMANENT
		permanent.HardwareAddr = []byte{2, 0, 0, 0, 0, 0x42}
		l.balancer.must(l.balancer.NeighSet(permanent))
		want := l.hop(f, 1, true)
		want.Destination = [6]byte{2, 0, 0, 0, 0, 0x42}
		waitHop(t, r, f.onLink, want)

		// The host has another one now, and the entry is deleted.
		l.peer.setMAC("peer1", mac)
		l.deleteEntry(f.onLink)
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
	})
}

// TestStaleEntryIsConfirmed leaves a stale entry that is wrong, as of a host
// that moved to another MAC. Nobody sends to it, so the kernel would believe it
// for ever: only a resolver that has stale entries confirmed finds out.
func TestStaleEntryIsConfirmed(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		l.balancer.sysctl("0", strings.ToLower(f.name), "neigh/eth1/delay_first_probe_time")
		stale := l.entry(f.onLink)
		stale.State = netlink.NUD_STALE
		stale.HardwareAddr = []byte{2, 0, 0, 0, 0, 0x42}
		l.balancer.must(l.balancer.NeighSet(stale))
		r := l.resolver(t, f.onLink)
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
	})
}

// TestEntriesStayConfirmed lets entries age within moments: a host that moves
// to another MAC without a word is found out.
func TestEntriesStayConfirmed(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		l.balancer.sysctl("0", strings.ToLower(f.name), "neigh/eth1/delay_first_probe_time")
		l.balancer.sysctl("100", strings.ToLower(f.name), "neigh/eth1/base_reachable_time_ms")
		r := l.resolver(t, f.onLink)
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
		l.peer.setMAC("peer1", "02:00:00:00:00:99")
		waitHop(t, r, f.onLink, l.hop(f, 1, true))
	})
}

func TestLinkFlaps(t *testing.T) {
	families(t, func(t *testing.T, f family) {
		l := newLab(t)
		r := l.resolver(t, f.onLink)
		want := l.hop(f, 1, true)
		waitHop(t, r, f.onLink, want)

		l.peer.down(l.peer.link("peer1"))
		wait(t, r, f.onLink, "no carrier", func(h Hop) bool { return h.Problem == "eth1 has no carrier" })
		l.peer.up(l.peer.link("peer1"))
		if f.name == "IPv6" {
			// An interface that goes down loses its IPv6 addresses.
			l.peer.addr("peer1", "2001:db8:1::10/64")
		}
		waitHop(t, r, f.onLink, want)

		l.balancer.down(l.balancer.link("eth1"))
		waitProblem(t, r, f.onLink, fmt.Sprintf("no route to %s: eth1 is down", f.onLink))
		l.balancer.up(l.balancer.link("eth1"))
		if f.name == "IPv6" {
			l.balancer.addr("eth1", "2001:db8:1::1/64")
		}
		waitHop(t, r, f.onLink, want)

		l.balancer.must(l.balancer.LinkDel(l.balancer.link("eth1")))
		waitProblem(t, r, f.onLink, "no route to "+f.onLink)
	})
}

// TestRouteFallsBack takes the preferred route's link down on a host without
// IPv6: IPv4 drops the routes of a link without a notification of them.
func TestRouteFallsBack(t *testing.T) {
	l := newLab(t)
	for _, link := range []string{"eth1", "eth2"} {
		l.balancer.sysctl("1", "ipv6/conf", link, "disable_ipv6")
	}
	l.balancer.route("198.51.100.0/24", "10.0.1.254", func(r *netlink.Route) { r.Priority = 10 })
	l.balancer.route("198.51.100.0/24", "10.0.2.254", func(r *netlink.Route) { r.Priority = 20 })
	f := family{sources: [2]string{"10.0.1.1", "10.0.2.1"}}
	r := l.resolver(t, "198.51.100.10")
	waitHop(t, r, "198.51.100.10", l.hop(f, 1, false))
	l.balancer.down(l.balancer.link("eth1"))
	waitHop(t, r, "198.51.100.10", l.hop(f, 2, false))
}

func TestDeviceChanges(t *testing.T) {
	l := newLab(t)
	r := l.resolver(t, "10.0.1.10")
	f := family{sources: [2]string{"10.0.1.1"}}
	waitHop(t, r, "10.0.1.10", l.hop(f, 1, true))
	eth1 := l.balancer.link("eth1")
	l.balancer.must(l.balancer.LinkSetMTU(eth1, 1400))
	l.balancer.setMAC("eth1", "02:00:00:00:00:77")
	want := l.hop(f, 1, true)
	want.MTU = 1400
	waitHop(t, r, "10.0.1.10", want)
	l.balancer.addr("eth1", "10.0.1.2/32")
	l.balancer.route("10.0.1.10/32", "", func(r *netlink.Route) {
		r.LinkIndex, r.Scope = eth1.Attrs().Index, netlink.SCOPE_LINK
		r.Src = netip.MustParseAddr("10.0.1.2").AsSlice()
	})
	want.SourceIP = netip.MustParseAddr("10.0.1.2")
	waitHop(t, r, "10.0.1.10", want)
}

func TestNoEthernetHeader(t *testing.T) {
	l := newLab(t)
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
	l.balancer.must(l.balancer.Do(func() error { return netlink.LinkAdd(tun) }))
	l.balancer.up(l.balancer.link("tun0"))
	l.balancer.addr("tun0", "10.0.3.1/24")
	r := l.resolver(t, "10.0.3.10")
	waitProblem(t, r, "10.0.3.10", "interface tun0 has no Ethernet header")
}
