package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// family is an IP version with the addresses that the packet table uses.
type family struct {
	name string
	ipv6 bool
	// client speaks to vip; wide is a VIP with any port; foreign is none of ours.
	client, vip, wide, foreign netip.Addr
	// backends are numbered below this prefix, balancer sends encapsulated packets.
	backends string
	balancer netip.Addr
}

func ipv4() family {
	return family{
		name:     "ipv4",
		client:   netip.MustParseAddr("203.0.113.7"),
		vip:      netip.MustParseAddr("192.0.2.1"),
		wide:     netip.MustParseAddr("192.0.2.2"),
		foreign:  netip.MustParseAddr("198.51.100.9"),
		backends: "10.0.%d.%d",
		balancer: netip.MustParseAddr("10.0.0.1"),
	}
}

func ipv6() family {
	return family{
		name:     "ipv6",
		ipv6:     true,
		client:   netip.MustParseAddr("2001:db8:c::7"),
		vip:      netip.MustParseAddr("2001:db8::1"),
		wide:     netip.MustParseAddr("2001:db8::2"),
		foreign:  netip.MustParseAddr("2001:db8:f::9"),
		backends: "2001:db8:b:%d::%d",
		balancer: netip.MustParseAddr("2001:db8:b::1"),
	}
}

func families() []family { return []family{ipv4(), ipv6()} }

// host is the address of the nth backend of a service of port p.
func (f family) host(p uint16, n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(f.backends, p, n))
}

// packet is an ordinary packet from the client to the VIP.
func (f family) packet(carried payload) packet {
	return packet{
		to: balancerMAC(), from: clientMAC(),
		source: f.client, destination: f.vip,
		ttl: 64, payload: carried,
	}
}

// foreignPacket is one that the balancer has nothing to do with.
func (f family) foreignPacket(carried payload) packet {
	p := f.packet(carried)
	p.destination = f.foreign
	return p
}

// The ports of the lab's services; each is there for TCP and UDP, over both families.
const (
	portL2            = 80
	portTunnel4       = 81
	portTunnel6       = 82
	portTagged        = 83
	portTaggedTunnel4 = 84
	portTaggedTunnel6 = 85
	portOut           = 86
	portOutTunnel4    = 87
	portOutTunnel6    = 88
	portDown          = 89
	portReset         = 90
	portUnresolved    = 91
	portGateway       = 92
	portNoLink        = 93
	portNoSource      = 94
	portJumbo         = 95
	portJumboTunnel4  = 96
	portJumboTunnel6  = 97
	portOutTagged     = 98
	portTCPOnly       = 99
	portFarTunnel     = 100
	portNone          = 101
)

const (
	vlanOut   = 100
	mtu       = 1500
	jumbo     = 9000
	missingIF = 54321
)

// service is a VIP per protocol, with a pool that has one backend or none.
type service struct {
	family   family
	port     uint16
	wide     bool
	mode     model.Mode
	backend  netip.Addr
	path     forwarding.Path
	resolved bool
	reset    bool
}

func (s service) pool() string { return fmt.Sprintf("%s-%d-%t", s.family.name, s.port, s.wide) }

func (s service) vip(protocol model.Protocol) string {
	return fmt.Sprintf("%s-%s", s.pool(), protocol)
}

func (s service) protocols() []model.Protocol {
	if s.port == portTCPOnly {
		return []model.Protocol{model.TCP}
	}
	return []model.Protocol{model.TCP, model.UDP}
}

func (s service) key() BackendKey { return BackendKey{s.pool(), model.BackendID{Address: s.backend}} }

// services are all services of the lab. out is the index of an interface other
// than the one that packets come from.
func services(out int) []service {
	var all []service
	for _, f := range families() {
		at := func(port uint16, mode model.Mode, outer family, link int, change func(*service)) {
			s := service{family: f, port: port, mode: mode, resolved: true, backend: outer.host(port, hostNumber(f))}
			s.path = forwarding.Path{
				Link: link, OnLink: true, MTU: mtu, Outer: outer.balancer,
				Source:      balancerMAC(),
				Destination: mac{0x02, 0, 0, byte(hostNumber(f)), 0x10, byte(port)},
			}
			if change != nil {
				change(&s)
			}
			all = append(all, s)
		}
		tagged := func(s *service) { s.path.VLAN = vlanOut }
		large := func(s *service) { s.path.MTU = jumbo }
		l2, ipip := model.ModeDSRL2, model.ModeDSRIPIP

		at(portL2, l2, f, loopback, nil)
		at(portTunnel4, ipip, ipv4(), loopback, nil)
		at(portTunnel6, ipip, ipv6(), loopback, nil)
		at(portTagged, l2, f, loopback, tagged)
		at(portTaggedTunnel4, ipip, ipv4(), loopback, tagged)
		at(portTaggedTunnel6, ipip, ipv6(), loopback, tagged)
		at(portOut, l2, f, out, nil)
		at(portOutTunnel4, ipip, ipv4(), out, nil)
		at(portOutTunnel6, ipip, ipv6(), out, nil)
		at(portOutTagged, l2, f, out, tagged)
		at(portDown, l2, f, loopback, func(s *service) { s.backend = netip.Addr{} })
		at(portReset, l2, f, loopback, func(s *service) { s.backend, s.reset = netip.Addr{}, true })
		at(portUnresolved, l2, f, loopback, func(s *service) { s.resolved = false })
		at(portGateway, l2, f, loopback, func(s *service) { s.path.OnLink = false })
		at(portNoLink, l2, f, missingIF, nil)
		at(portNoSource, ipip, f, loopback, func(s *service) { s.path.Outer = netip.Addr{} })
		at(portJumbo, l2, f, loopback, large)
		at(portJumboTunnel4, ipip, ipv4(), loopback, large)
		at(portJumboTunnel6, ipip, ipv6(), loopback, large)
		at(portTCPOnly, l2, f, loopback, nil)
		at(portFarTunnel, ipip, f, loopback, func(s *service) { s.path.OnLink = false })
		at(0, l2, f, loopback, func(s *service) { s.wide = true })
		at(portTunnel4, ipip, ipv4(), loopback, func(s *service) {
			s.wide, s.backend = true, ipv4().host(portTunnel4, 100+hostNumber(f))
		})
	}
	return all
}

func hostNumber(f family) int {
	if f.ipv6 {
		return 16
	}
	return 14
}

func stateOf(services []service) forwarding.State {
	state := forwarding.State{Paths: map[netip.Addr]forwarding.Path{}}
	for _, s := range services {
		pool := settledPool(s.pool(), 251)
		if s.backend.IsValid() {
			pool = settledPool(s.pool(), 251, s.backend)
			if s.resolved {
				state.Paths[s.backend] = s.path
			}
		}
		pool.Reset = s.reset
		state.Pools = append(state.Pools, pool)
		address := s.family.vip
		if s.wide {
			address = s.family.wide
		}
		for _, protocol := range s.protocols() {
			state.VIPs = append(state.VIPs, model.VIP{
				Name: s.vip(protocol), Endpoints: listen(address, s.port), Protocol: protocol, Mode: s.mode, Pool: s.pool(),
			})
		}
	}
	slices.SortFunc(state.VIPs, func(a, b model.VIP) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(state.Pools, func(a, b forwarding.Pool) int { return strings.Compare(a.Name, b.Name) })
	return state
}

// listen is an endpoint of one port, or of any for 0.
func listen(address netip.Addr, port uint16) []model.Endpoint {
	return []model.Endpoint{{Address: address, Ports: model.Port(port)}}
}

func (l *lab) at(f family, port uint16) service     { return l.find(f, port, false) }
func (l *lab) wideAt(f family, port uint16) service { return l.find(f, port, true) }
func (l *lab) find(f family, port uint16, wide bool) service {
	for _, s := range l.services {
		if s.family.name == f.name && s.port == port && s.wide == wide {
			return s
		}
	}
	panic(fmt.Sprintf("the lab has no service for %s port %d", f.name, port))
}

// forwarded is the packet as the service's backend receives it.
func (s service) forwarded(in packet) packet {
	in.to, in.from, in.tags = s.path.Destination, s.path.Source, nil
	if s.path.VLAN != 0 {
		in.tags = []tag{{etherVLAN, s.path.VLAN}}
	}
	if s.mode == model.ModeDSRIPIP {
		in.outer = &tunnel{s.path.Outer, s.backend}
	}
	in.ttl--
	return in
}

// counted is a row of which the service's VIP takes notice, and no backend.
func (s service) counted(name, reason string, in packet) row {
	protocol := model.Protocol(in.payload.protocol(in.ipv6()))
	r := row{name: rowName(s.family, name), in: in.bytes(), reason: reason, vip: s.vip(protocol), size: len(in.ip())}
	if segment, ok := in.payload.(tcp); ok {
		r.opener = segment.flags&(flagSYN|flagACK) == flagSYN
	}
	return r
}

// forwards is a row whose packet reaches the service's backend.
func (s service) forwards(name string, in packet) row {
	reason := "tx_forwarded"
	if s.path.Link != loopback {
		reason = "redirect_forwarded"
	}
	r := s.counted(name, reason, in)
	r.out, r.backend = s.forwarded(in).bytes(), s.key()
	return r
}

// untouched is a row of which no VIP takes notice.
func untouched(f family, name, reason string, in []byte) row {
	return row{name: rowName(f, name), in: in, reason: reason}
}

// malformed is the same of a frame that is not well-formed.
func malformed(f family, name, reason string, in []byte) row {
	r := untouched(f, name, reason, in)
	r.rough = true
	return r
}

func rowName(f family, name string) string { return f.name + "/" + name }
