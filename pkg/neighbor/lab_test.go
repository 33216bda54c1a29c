package neighbor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/namespace"
)

const patience = 20 * time.Second

// host is a network namespace of a test.
type host struct {
	t testing.TB
	namespace.Namespace
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t, namespace.New(t)}
	h.up(h.link("lo"))
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// sysctl writes below /proc/sys/net, which is that of the thread's namespace.
func (h *host) sysctl(value string, path ...string) {
	h.t.Helper()
	h.must(h.Do(func() error {
		return os.WriteFile(filepath.Join(append([]string{"/proc/sys/net"}, path...)...), []byte(value), 0)
	}))
}

func (h *host) link(name string) netlink.Link {
	h.t.Helper()
	link, err := h.LinkByName(name)
	h.must(err)
	return link
}

func (h *host) up(link netlink.Link)   { h.t.Helper(); h.must(h.LinkSetUp(link)) }
func (h *host) down(link netlink.Link) { h.t.Helper(); h.must(h.LinkSetDown(link)) }

func address(cidr string) *netlink.Addr {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		panic(err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

func (h *host) addr(link string, cidrs ...string) {
	h.t.Helper()
	for _, cidr := range cidrs {
		h.must(h.AddrAdd(h.link(link), address(cidr)))
	}
}

func (h *host) delAddr(link string, cidrs ...string) {
	h.t.Helper()
	for _, cidr := range cidrs {
		h.must(h.AddrDel(h.link(link), address(cidr)))
	}
}

func (h *host) route(dst, gateway string, change ...func(*netlink.Route)) {
	h.t.Helper()
	_, prefix, err := net.ParseCIDR(dst)
	h.must(err)
	r := &netlink.Route{Dst: prefix, Gw: net.ParseIP(gateway)}
	for _, c := range change {
		c(r)
	}
	h.must(h.RouteReplace(r))
}

func (h *host) mac(link string) (mac [6]byte) {
	h.t.Helper()
	copy(mac[:], h.link(link).Attrs().HardwareAddr)
	return mac
}

func (h *host) setMAC(link, mac string) {
	h.t.Helper()
	parsed, err := net.ParseMAC(mac)
	h.must(err)
	h.must(h.LinkSetHardwareAddr(h.link(link), parsed))
}

// lab is a balancer with two links to a neighbouring host:
//
//	eth1 10.0.1.1/24 2001:db8:1::1/64 --- peer1 .10 ::10 (backends), .254 ::fe (gateways)
//	eth2 10.0.2.1/24 2001:db8:2::1/64 --- peer2 .254 ::fe
type lab struct{ balancer, peer *host }

func newLab(t testing.TB) *lab {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	l := &lab{newHost(t), newHost(t)}
	for _, n := range []string{"1", "2"} {
		l.balancer.must(l.balancer.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth" + n},
			PeerName:  "peer" + n, PeerNamespace: netlink.NsFd(l.peer.NsHandle),
		}))
		l.balancer.addr("eth"+n, "10.0."+n+".1/24", "2001:db8:"+n+"::1/64")
		l.peer.addr("peer"+n, "10.0."+n+".254/24", "2001:db8:"+n+"::fe/64")
		for _, end := range []struct {
			h    *host
			name string
		}{{l.balancer, "eth" + n}, {l.peer, "peer" + n}} {
			end.h.sysctl("0", "ipv6/conf", end.name, "accept_dad")
			end.h.up(end.h.link(end.name))
		}
		// The defaults of one second and three attempts, made short.
		for _, family := range []string{"ipv4", "ipv6"} {
			l.balancer.sysctl("40", family, "neigh/eth"+n, "retrans_time_ms")
			l.balancer.sysctl("1", family, "neigh/eth"+n, "mcast_solicit")
		}
	}
	l.peer.addr("peer1", "10.0.1.10/24", "2001:db8:1::10/64")
	return l
}

// resolver runs a Resolver in the balancer.
func (l *lab) resolver(t *testing.T, addrs ...string) *Resolver {
	t.Helper()
	r := l.newResolver(t)
	r.retryEvery = 50 * time.Millisecond
	set(r, addrs...)
	start(t, r)
	return r
}

func (l *lab) newResolver(t testing.TB) *Resolver {
	t.Helper()
	var r *Resolver
	err := l.balancer.Do(func() (err error) {
		r, err = New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func start(t testing.TB, r *Resolver) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func set(r *Resolver, addrs ...string) {
	var parsed []netip.Addr
	for _, a := range addrs {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	r.Set(parsed)
}

// wait returns the hop of an address when it satisfies a condition.
func wait(t testing.TB, r *Resolver, addr string, what string, ok func(Hop) bool) Hop {
	t.Helper()
	deadline := time.After(patience)
	for {
		hop, found := r.Table()[netip.MustParseAddr(addr)]
		if found && ok(hop) {
			return hop
		}
		select {
		case <-r.Changed():
		case <-deadline:
			t.Fatalf("%s: want %s, have %+v (found: %v)", addr, what, hop, found)
		}
	}
}

func waitProblem(t testing.TB, r *Resolver, addr, problem string) {
	t.Helper()
	wait(t, r, addr, "problem "+problem, func(h Hop) bool { return h.Problem == problem })
}

func waitHop(t testing.TB, r *Resolver, addr string, want Hop) {
	t.Helper()
	wait(t, r, addr, "another hop", func(h Hop) bool { return h == want })
}
