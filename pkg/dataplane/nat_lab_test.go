package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The ports of the NAT lab's VIPs and what their backends listen on.
const (
	portVIP     = 80
	portBackend = 8080
)

// natLab is a Plane with VIPs that translate, in a namespace that forwards: clients
// are behind the interface "out", backends where packets come from.
type natLab struct {
	*lab
	sources natSources
	// out is the MAC address of that interface.
	out mac
}

// natService is a VIP of each protocol over one backend.
type natService struct {
	name    string
	mode    model.Mode
	family  family
	address netip.Addr
	ports   model.PortRange
	backend model.BackendID
	path    forwarding.Path
}

// source4 and source6 are where connections of fullnat come from.
func source4() netip.Prefix { return netip.MustParsePrefix("10.9.0.4/31") }
func source6() netip.Prefix { return netip.MustParsePrefix("2001:db8:9::8/127") }

func natOptions() Options {
	o := testOptions()
	o.NATSourceIPv4, o.NATSourceIPv6 = source4(), source6()
	return o
}

// natAddress is that of the nth VIP.
func (f family) natAddress(n int) netip.Addr {
	if f.ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:77::%d", n))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 100+n))
}

// natServices are a VIP of mode nat and two of fullnat for each family, over a backend
// of the same and of the other.
func natServices() []natService {
	var all []natService
	for i, f := range families() {
		other := families()[1-i]
		add := func(name string, n int, mode model.Mode, to family, ports model.PortRange, port uint16) {
			s := natService{
				name: f.name + " " + name, mode: mode, family: f, address: f.natAddress(n), ports: ports,
				backend: model.BackendID{Address: to.host(uint16(n), 20+i), Port: port},
			}
			s.path = forwarding.Path{Link: loopback, MTU: mtu, Source: balancerMAC(), Destination: mac{0x02, 0, 0, byte(i), 0x20, byte(n)}}
			all = append(all, s)
		}
		add("nat", 1, model.ModeNAT, f, model.Port(portVIP), portBackend)
		add("nat any", 2, model.ModeNAT, f, model.PortRange{}, 0)
		add("nat range", 3, model.ModeNAT, f, model.PortRange{First: 3000, Last: 3999}, 0)
		add("fullnat", 4, model.ModeFullNAT, f, model.Port(portVIP), portBackend)
		add("fullnat to "+other.name, 5, model.ModeFullNAT, other, model.Port(portVIP), portBackend)
		add("fullnat any", 6, model.ModeFullNAT, f, model.PortRange{}, 0)
	}
	return all
}

func (s natService) vip(p model.Protocol) string { return fmt.Sprintf("%s %s", s.name, p) }

func natState(services []natService) forwarding.State {
	state := forwarding.State{Paths: map[netip.Addr]forwarding.Path{}}
	for _, s := range services {
		pool := settledPool(s.name, 251, s.backend.Address)
		pool.Backends[0].ID, pool.Members[0].ID = s.backend, s.backend
		state.Pools = append(state.Pools, pool)
		state.Paths[s.backend.Address] = s.path
		for _, p := range []model.Protocol{model.TCP, model.UDP} {
			state.VIPs = append(state.VIPs, model.VIP{
				Name: s.vip(p), Endpoints: []model.Endpoint{{Address: s.address, Ports: s.ports}}, Protocol: p, Mode: s.mode,
				Pool: s.name, Tracking: model.TrackingAlways, IdleTimeout: model.DefaultIdleTimeout,
			})
		}
	}
	slices.SortFunc(state.Pools, func(a, b forwarding.Pool) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return state
}

func newNATLab(t testing.TB) *natLab {
	t.Helper()
	return newNATLabWith(t, natOptions())
}

func newNATLabWith(t testing.TB, options Options) *natLab {
	t.Helper()
	l := &natLab{lab: &lab{space: newSpace(t)}, sources: sourcesOf(options)}
	l.routes(t)
	l.Plane = loadedWith(t, smallLimits(), options)
	l.serve(t)
	link, err := l.LinkByName("out")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.do(func() error {
		return errors.Join(l.sendsThrough(uint32(link.Attrs().Index)), l.Apply(natState(natServices())))
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// routes makes the namespace forward, with clients behind an interface.
func (l *natLab) routes(t testing.TB) {
	t.Helper()
	out := l.veth(t, "out", "outpeer")
	if err := l.do(func() error {
		for _, f := range []string{"ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	link, err := l.LinkByName("out")
	if err != nil {
		t.Fatal(err)
	}
	l.out = mac(link.Attrs().HardwareAddr)
	lo, err := l.LinkByName("lo")
	if err == nil {
		err = l.LinkSetUp(lo)
	}
	for _, prefix := range []string{"203.0.113.0/24", "2001:db8:c::/64"} {
		_, to, _ := net.ParseCIDR(prefix)
		if err == nil {
			err = l.RouteAdd(&netlink.Route{LinkIndex: out, Dst: to})
		}
	}
	for _, f := range families() {
		if err == nil {
			err = l.NeighAdd(&netlink.Neigh{LinkIndex: out, IP: f.client.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr(slices.Clone(routerMAC()))})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// routerMAC is that of the client's router on the wire behind "out".
func routerMAC() []byte { return []byte{0x02, 0, 0, 0, 0x30, 1} }

// through sends a frame and returns what leaves.
func (l *natLab) through(t testing.TB, frame []byte) (uint32, []byte) {
	t.Helper()
	verdict, out, err := l.run(ebpf.RunOptions{Data: frame})
	if err != nil {
		t.Fatal(err)
	}
	return verdict, out
}
