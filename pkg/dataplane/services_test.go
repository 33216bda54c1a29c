package dataplane

import (
	"cmp"
	"encoding/binary"
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
	// client speaks to vip; wide is a VIP with any port; eager one that takes fragments
	// before their first one; foreign is none of ours.
	client, vip, wide, eager, foreign netip.Addr
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
		eager:    netip.MustParseAddr("192.0.2.3"),
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
		eager:    netip.MustParseAddr("2001:db8::3"),
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
	portGUE4          = 130
	portGUE6          = 131
	portTaggedGUE4    = 132
	portTaggedGUE6    = 133
	portOutGUE4       = 134
	portOutGUE6       = 135
	portJumboGUE4     = 136
	portJumboGUE6     = 137
	portNoSourceGUE   = 138
	portFarGUE        = 139
	portEager         = 140
	portNarrow        = 141
	portClamped       = 143
	portClampedTunnel = 144
	portClampedGUE    = 145
)

// grantedMSS is what services that clamp let SYNs carry.
const grantedMSS = 1220

const (
	vlanOut   = 100
	mtu       = 1500
	jumbo     = 9000
	narrow    = 1300 // what is left for an IPv6 packet is less than any link's (RFC 8200)
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
	eager    bool
	mss      uint16
	options  Options
}

func (s service) pool() string { return fmt.Sprintf("%s-%d-%t", s.family.name, s.port, s.wide) }

func (s service) address() netip.Addr {
	switch {
	case s.wide:
		return s.family.wide
	case s.eager:
		return s.family.eager
	}
	return s.family.vip
}

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
		furtherServices(f, out, at)
	}
	return all
}

// furtherServices encapsulate in GUE, take fragments early or clamp.
func furtherServices(f family, out int, at func(uint16, model.Mode, family, int, func(*service))) {
	tagged := func(s *service) { s.path.VLAN = vlanOut }
	large := func(s *service) { s.path.MTU = jumbo }
	clamped := func(s *service) { s.mss = grantedMSS }
	l2, ipip, gue := model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE

	at(portGUE4, gue, ipv4(), loopback, nil)
	at(portGUE6, gue, ipv6(), loopback, nil)
	at(portTaggedGUE4, gue, ipv4(), loopback, tagged)
	at(portTaggedGUE6, gue, ipv6(), loopback, tagged)
	at(portOutGUE4, gue, ipv4(), out, nil)
	at(portOutGUE6, gue, ipv6(), out, nil)
	at(portJumboGUE4, gue, ipv4(), loopback, large)
	at(portJumboGUE6, gue, ipv6(), loopback, large)
	at(portNoSourceGUE, gue, f, loopback, func(s *service) { s.path.Outer = netip.Addr{} })
	at(portFarGUE, gue, f, loopback, func(s *service) { s.path.OnLink = false })
	at(portEager, l2, f, loopback, func(s *service) { s.eager = true })
	at(portNarrow, ipip, ipv6(), loopback, func(s *service) { s.path.MTU = narrow })
	at(portClamped, l2, f, loopback, clamped)
	at(portClampedTunnel, ipip, ipv6(), loopback, clamped)
	at(portClampedGUE, gue, ipv4(), loopback, clamped)
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
		for _, protocol := range s.protocols() {
			v := model.VIP{
				Name: s.vip(protocol), Endpoints: listen(s.address(), s.port), Protocol: protocol, Mode: s.mode, Pool: s.pool(),
			}
			if s.eager {
				v.Fragments = model.FragmentsHash
			}
			if protocol == model.TCP {
				v.MSS = s.mss
			}
			state.VIPs = append(state.VIPs, v)
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

// forwarded is a whole packet of a flow as the service's backend receives it.
func (s service) forwarded(in packet) packet { return s.forwardedBy(in, hashOf(in)) }

// forwardedBy is a packet as the service's backend receives it; the hash of its flow
// shows in outer headers, or of a fragment what it has in common with the others.
func (s service) forwardedBy(in packet, hash uint64) packet {
	if id, ok := in.fragmentID(); ok {
		hash = fragmentHash(in.source, in.destination, in.payload.protocol(in.ipv6()), id)
	}
	in.to, in.from, in.tags = s.path.Destination, s.path.Source, nil
	if s.path.VLAN != 0 {
		in.tags = []tag{{etherVLAN, s.path.VLAN}}
	}
	if s.mode != model.ModeDSRL2 {
		in.outer = &tunnel{spreadSource(s.path.Outer, s.options, hash), s.backend}
	}
	if s.mode == model.ModeDSRGUE {
		in.gue = &gue{from: 0xc000 | uint16(hash&0x3fff), to: cmp.Or(s.options.GUEPort, DefaultGUEPort), summed: s.options.GUEChecksum}
	}
	in.ttl--
	return in
}

// spreadSource is the outer source address of a flow: host bits of a prefix hold
// bits of the hash, the lower byte first, as the packet path lays words out.
func spreadSource(source netip.Addr, options Options, hash uint64) netip.Addr {
	prefix := options.SourceIPv4
	if source.Is6() {
		prefix = options.SourceIPv6
	}
	if !prefix.IsValid() || !source.IsValid() {
		return source
	}
	b := source.AsSlice()
	bits := binary.BigEndian.Uint16([]byte{byte(hash >> 14), byte(hash >> 22)})
	bits &= uint16(1<<min(source.BitLen()-prefix.Bits(), 16) - 1)
	binary.BigEndian.PutUint16(b[len(b)-2:], binary.BigEndian.Uint16(b[len(b)-2:])|bits)
	spread, _ := netip.AddrFromSlice(b)
	return spread
}

// hashOf is the hash of a whole packet's flow, 0 if it tells none.
func hashOf(in packet) uint64 {
	f := Flow{Protocol: model.Protocol(in.payload.protocol(in.ipv6()))}
	switch carried := in.payload.(type) {
	case tcp:
		f.Source, f.Destination = netip.AddrPortFrom(in.source, carried.from), netip.AddrPortFrom(in.destination, carried.to)
	case udp:
		f.Source, f.Destination = netip.AddrPortFrom(in.source, carried.from), netip.AddrPortFrom(in.destination, carried.to)
	default:
		return 0
	}
	return testSeed().Hash(f)
}

// fragmentHash is of what fragments of one packet have in common (RFC 791, RFC 8200
// section 4.5): with IPv6 the protocol is not part of it.
func fragmentHash(source, destination netip.Addr, protocol uint8, id uint32) uint64 {
	if source.Is6() {
		protocol = numberFragment
	} else {
		id <<= 16
	}
	from, to := netip.AddrPortFrom(source, uint16(id>>16)), netip.AddrPortFrom(destination, uint16(id))
	return testSeed().Hash(Flow{from, to, model.Protocol(protocol)}) | flowKey
}

// counted is a row of which the service's VIP takes notice, and no backend.
func (s service) counted(name, reason string, in packet) row {
	r := s.countedAs(model.Protocol(in.payload.protocol(in.ipv6())), name, reason, in)
	if segment, ok := in.payload.(tcp); ok {
		r.opener = segment.flags&(flagSYN|flagACK) == flagSYN
	}
	return r
}

// countedAs is the same of a packet that does not look like what it is part of, or about.
func (s service) countedAs(protocol model.Protocol, name, reason string, in packet) row {
	return row{name: rowName(s.family, name), in: in.bytes(), reason: reason, vip: s.vip(protocol), size: len(in.ip())}
}

// forwards is a row whose packet reaches the service's backend.
func (s service) forwards(name string, in packet) row {
	r := s.counted(name, s.sent(), in)
	r.out, r.backend = s.forwarded(in).bytes(), s.key()
	return r
}

// forwardsAs is the same of a packet that does not look like what it is part of, or
// about; the hash is of what shows outside.
func (s service) forwardsAs(protocol model.Protocol, hash uint64, name string, in packet) row {
	r := s.countedAs(protocol, name, s.sent(), in)
	r.out, r.backend = s.forwardedBy(in, hash).bytes(), s.key()
	return r
}

// sent is the reason of packets that reach the backend.
func (s service) sent() string {
	if s.path.Link != loopback {
		return "redirect_forwarded"
	}
	return "tx_forwarded"
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
