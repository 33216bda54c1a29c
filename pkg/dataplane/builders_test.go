package dataplane

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The frames of the packet table, described by what stands in them. Tests take
// such a description, change what is to differ and build both into bytes.

type mac [6]byte

// The ends of the wire that the balancer listens on.
func clientMAC() mac   { return mac{0x02, 0, 0, 0, 0, 0x01} }
func balancerMAC() mac { return mac{0x02, 0, 0, 0, 0, 0x02} }

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd
	etherQinQ = 0x88a8
	etherLLDP = 0x88cc

	headerEthernet = 14
	headerTag      = 4
	headerIPv4     = 20
	headerIPv6     = 40
	headerTCP      = 20
	headerUDP      = 8
	headerGUE      = 12 // UDP's and its own
)

type tag struct{ protocol, tci uint16 }

// packet is a frame that carries IP. Lengths and checksums are computed.
type packet struct {
	to, from            mac
	tags                []tag
	outer               *tunnel
	gue                 *gue
	source, destination netip.Addr
	ttl, tos            uint8
	// id and fragment (flags and offset) of IPv4, label of IPv6.
	id, fragment uint16
	label        uint32
	options      []byte
	extensions   []extension
	payload      payload
	padding      int
}

// tunnel is an outer IP header.
type tunnel struct{ source, destination netip.Addr }

// gue are the UDP and GUE headers behind it.
type gue struct {
	from, to uint16
	summed   bool
}

// payload is what IP carries.
type payload interface {
	protocol(ipv6 bool) uint8
	bytes(source, destination netip.Addr) []byte
}

func (p packet) ipv6() bool { return p.source.Is6() }

// bytes is the frame.
func (p packet) bytes() []byte {
	ip, kind := p.ip(), p.source.Is6()
	if p.outer != nil {
		ip, kind = p.outer.header(p, ip), p.outer.source.Is6()
	}
	frame := slices.Concat(p.to[:], p.from[:])
	for _, t := range p.tags {
		frame = binary.BigEndian.AppendUint16(frame, t.protocol)
		frame = binary.BigEndian.AppendUint16(frame, t.tci)
	}
	if kind {
		frame = binary.BigEndian.AppendUint16(frame, etherIPv6)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, etherIPv4)
	}
	return slices.Concat(frame, ip, make([]byte, p.padding))
}

// l3 and l4 are the offsets of the headers in the frame.
func (p packet) l3() int { return headerEthernet + headerTag*len(p.tags) }
func (p packet) l4() int {
	if !p.ipv6() {
		return p.l3() + headerIPv4 + len(p.options)
	}
	return p.l3() + headerIPv6 + len(p.chain(0))
}

// fragmentID is the ID of the packet that this is a fragment of, if it is.
func (p packet) fragmentID() (id uint32, ok bool) {
	if !p.ipv6() {
		return uint32(p.id), p.fragment&0x3fff != 0
	}
	for _, e := range p.extensions {
		if e.kind == numberFragment && binary.BigEndian.Uint16(e.body[2:]) != 0 {
			return binary.BigEndian.Uint32(e.body[4:]), true
		}
	}
	return 0, false
}

// ip is the IP packet without what surrounds it.
func (p packet) ip() []byte {
	body := p.payload.bytes(p.source, p.destination)
	protocol := p.payload.protocol(p.ipv6())
	if p.ipv6() {
		chain := p.chain(protocol)
		if len(p.extensions) > 0 {
			protocol = p.extensions[0].kind
		}
		return slices.Concat(ipv6Header(p.source, p.destination, p.tos, p.label, p.ttl, protocol, len(chain)+len(body)), chain, body)
	}
	return slices.Concat(ipv4Header(p, p.options, protocol, len(body)), body)
}

func ipv4Header(p packet, options []byte, protocol uint8, body int) []byte {
	header := headerIPv4 + len(options)
	h := []byte{0x40 | byte(header/4), p.tos}
	h = binary.BigEndian.AppendUint16(h, uint16(header+body))
	h = binary.BigEndian.AppendUint16(h, p.id)
	h = binary.BigEndian.AppendUint16(h, p.fragment)
	h = append(h, p.ttl, protocol, 0, 0)
	h = slices.Concat(h, p.source.AsSlice(), p.destination.AsSlice(), options)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h))
	return h
}

func ipv6Header(source, destination netip.Addr, class uint8, label uint32, hops, next uint8, body int) []byte {
	h := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(class)<<20|label)
	h = binary.BigEndian.AppendUint16(h, uint16(body))
	h = append(h, next, hops)
	return slices.Concat(h, source.AsSlice(), destination.AsSlice())
}

func (t *tunnel) header(inner packet, ip []byte) []byte {
	protocol := uint8(4)
	if inner.ipv6() {
		protocol = 41
	}
	if inner.gue != nil {
		datagram := udp{from: inner.gue.from, to: inner.gue.to, data: slices.Concat([]byte{0, protocol, 0, 0}, ip), unsummed: !inner.gue.summed}
		protocol, ip = uint8(model.UDP), datagram.bytes(t.source, t.destination)
	}
	if t.source.Is6() {
		return slices.Concat(ipv6Header(t.source, t.destination, inner.tos, 0, 64, protocol, len(ip)), ip)
	}
	outer := packet{source: t.source, destination: t.destination, tos: inner.tos, ttl: 64, fragment: 0x4000}
	return slices.Concat(ipv4Header(outer, nil, protocol, len(ip)), ip)
}

// extension is an IPv6 extension header; the first byte of its body, which names
// the next header, is filled in.
type extension struct {
	kind uint8
	body []byte
}

func (p packet) chain(last uint8) []byte {
	var out []byte
	for i, e := range p.extensions {
		at := len(out)
		out = append(out, e.body...)
		out[at] = last
		if i+1 < len(p.extensions) {
			out[at] = p.extensions[i+1].kind
		}
	}
	return out
}

// options pads with PadN (RFC 8200, section 4.2) to that many units of 8 bytes.
func options(kind uint8, units int) extension {
	body := make([]byte, 8*units)
	body[1] = byte(units - 1)
	for at := 2; at < len(body); {
		n := min(len(body)-at, 255+2)
		body[at], body[at+1] = 1, byte(n-2)
		at += n
	}
	return extension{kind, body}
}

func hopByHop(units int) extension           { return options(0, units) }
func destinationOptions(units int) extension { return options(60, units) }

// routing is a type 2 routing header that has no segment left.
func routing() extension {
	return extension{43, slices.Concat([]byte{0, 2, 2, 0, 0, 0, 0, 0}, netip.MustParseAddr("2001:db8:99::1").AsSlice())}
}

func fragmentHeader(offset uint16, more bool) extension {
	return fragmentHeaderOf(0xcafebabe, offset, more)
}

// fragmentHeaderOf is that of a packet with an ID; the offset is in units of 8 bytes.
func fragmentHeaderOf(id uint32, offset uint16, more bool) extension {
	bits := offset << 3
	if more {
		bits |= 1
	}
	body := binary.BigEndian.AppendUint16([]byte{0, 0}, bits)
	return extension{44, binary.BigEndian.AppendUint32(body, id)}
}

// authentication is an AH (RFC 4302) with a check value of 12 bytes.
func authentication() extension {
	body := make([]byte, 24)
	body[1] = byte(len(body)/4 - 2)
	copy(body[4:], []byte{0, 0, 1, 0, 0, 0, 0, 7})
	return extension{51, body}
}

const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
)

type tcp struct {
	from, to uint16
	seq, ack uint32
	flags    uint8
	options  []byte
	data     []byte
	// shut: its window is zero, as that of a reset is always.
	shut bool
}

func (tcp) protocol(bool) uint8 { return uint8(model.TCP) }

func (s tcp) bytes(source, destination netip.Addr) []byte {
	header := headerTCP + len(s.options)
	b := binary.BigEndian.AppendUint16(nil, s.from)
	b = binary.BigEndian.AppendUint16(b, s.to)
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	window := byte(0xff)
	if s.flags&flagRST != 0 || s.shut {
		window = 0
	}
	b = append(b, byte(header/4)<<4, s.flags, window, 0, 0, 0, 0, 0)
	b = slices.Concat(b, s.options, s.data)
	binary.BigEndian.PutUint16(b[16:], ^onesSum(pseudoHeader(source, destination, 6, len(b)), b))
	return b
}

type udp struct {
	from, to uint16
	data     []byte
	// unsummed leaves the checksum 0, which IPv4 allows.
	unsummed bool
}

func (udp) protocol(bool) uint8 { return uint8(model.UDP) }

func (d udp) bytes(source, destination netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16(nil, d.from)
	b = binary.BigEndian.AppendUint16(b, d.to)
	b = binary.BigEndian.AppendUint16(b, uint16(headerUDP+len(d.data)))
	b = slices.Concat(b, []byte{0, 0}, d.data)
	if !d.unsummed {
		binary.BigEndian.PutUint16(b[6:], nonZero(^onesSum(pseudoHeader(source, destination, 17, len(b)), b)))
	}
	return b
}

// nonZero is a checksum where 0 says that there is none.
func nonZero(sum uint16) uint16 {
	if sum == 0 {
		return math.MaxUint16
	}
	return sum
}

// icmp is an ICMP or ICMPv6 message with an identifier.
type icmp struct {
	kind, code uint8
	id, seq    uint16
	data       []byte
}

func (icmp) protocol(ipv6 bool) uint8 {
	if ipv6 {
		return 58
	}
	return 1
}

func (m icmp) bytes(source, destination netip.Addr) []byte {
	b := binary.BigEndian.AppendUint16([]byte{m.kind, m.code, 0, 0}, m.id)
	b = binary.BigEndian.AppendUint16(b, m.seq)
	b = append(b, m.data...)
	var pseudo []byte
	if source.Is6() {
		pseudo = pseudoHeader(source, destination, 58, len(b))
	}
	sum := ^onesSum(pseudo, b)
	if sum == 0 {
		// The zero that is right for a message of nothing but zeroes, too.
		sum = math.MaxUint16
	}
	binary.BigEndian.PutUint16(b[2:], sum)
	return b
}

// raw is any other protocol.
type raw struct {
	number uint8
	data   []byte
}

func (r raw) protocol(bool) uint8                 { return r.number }
func (r raw) bytes(netip.Addr, netip.Addr) []byte { return r.data }

func pseudoHeader(source, destination netip.Addr, protocol uint8, length int) []byte {
	b := slices.Concat(source.AsSlice(), destination.AsSlice())
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, protocol)
}

// onesSum is the one's complement sum of 16-bit words (RFC 1071).
func onesSum(parts ...[]byte) uint16 {
	sum := uint64(0)
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			word := uint64(b[i]) << 8
			if i+1 < len(b) {
				word |= uint64(b[i+1])
			}
			sum += word
		}
	}
	for sum > math.MaxUint16 {
		sum = sum&math.MaxUint16 + sum>>16
	}
	return uint16(sum)
}

// set returns a copy of a frame with other bytes at an offset.
func set(frame []byte, at int, bytes ...byte) []byte {
	frame = slices.Clone(frame)
	copy(frame[at:at+len(bytes)], bytes)
	return frame
}

// text is a payload of n recognisable bytes.
func text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	return b
}
