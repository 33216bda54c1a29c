package dataplane

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// flaw is what keeps a packet from being a whole one that can be followed.
type flaw uint8

const (
	// truncated: the frame, or its first buffer, ends before a header or the packet does.
	truncated flaw = 1 << iota
	// contradicts: a header contradicts itself, or a length another one.
	contradicts
	// overlong: more extension headers than are followed.
	overlong
)

// part is what a packet is of a whole one.
type part uint8

const (
	whole part = iota
	firstFragment
	// laterFragment tells no ports.
	laterFragment
)

// protocols that the fuzzer looks into (IANA, Protocol Numbers).
const (
	numberHopByHop = 0
	numberICMP     = 1
	numberTCP      = 6
	numberUDP      = 17
	numberRouting  = 43
	numberFragment = 44
	numberAH       = 51
	numberICMPv6   = 58
	numberOptions  = 60
)

// anatomy is what stands in a frame, as RFC 791, 8200, 9293 and 768 have it. It is
// read by itself, not after bpf/parse.h: the fuzzer holds one against the other.
// Layers are judged in order; of one with a flaw nothing further in is known.
type anatomy struct {
	frame []byte
	// near is how much of the frame is in the first buffer, where headers must be.
	near int
	// l3 and l4 are the offsets of IP and transport header, 0 where there is none;
	// end is where the IP packet ends by its own account, perhaps beyond the frame.
	l3, l4, end int
	ipv6        bool
	// source and destination are invalid where the IP header is cut off.
	source, destination netip.Addr
	hops, tos           uint8
	// protocol is that of the transport.
	protocol uint8
	part     part
	// fragmentAt is the offset of the last fragment header of IPv6, or 0.
	fragmentAt, fragmentHeaders int
	flaws                       flaw
}

// dissect reads a frame of which the first near bytes are in the first buffer.
func dissect(frame []byte, near int) anatomy {
	a := anatomy{frame: frame, near: near}
	kind, at := etherType(frame[:near])
	switch kind {
	case etherIPv4:
		a.l3 = at
		a.readIPv4()
	case etherIPv6:
		a.l3, a.ipv6 = at, true
		a.readIPv6()
	}
	if a.l4 != 0 && a.flaws == 0 && a.part != laterFragment {
		a.readTransport()
	}
	return a
}

// etherType is the type behind up to two tags, and where what it names begins.
func etherType(frame []byte) (uint16, int) {
	at := headerEthernet - 2
	for tags := 0; ; tags++ {
		if len(frame) < at+2 {
			return 0, 0
		}
		kind := binary.BigEndian.Uint16(frame[at:])
		if tags == 2 || kind != etherVLAN && kind != etherQinQ {
			return kind, at + 2
		}
		at += headerTag
	}
}

// reaches reports whether the first buffer holds everything before an offset.
func (a *anatomy) reaches(offset int) bool { return offset <= a.near }

// ip is the IP packet, without what follows it in the frame. It is whole.
func (a *anatomy) ip() []byte { return a.frame[a.l3:a.end] }

// transport is what IP carries behind its headers. It is whole.
func (a *anatomy) transport() []byte { return a.frame[a.l4:a.end] }

func (a *anatomy) length() int { return a.end - a.l3 }

// addressed reports whether the IP header is there, and so the destination.
func (a *anatomy) addressed() bool { return a.destination.IsValid() }

func (a *anatomy) readIPv4() {
	if !a.reaches(a.l3 + headerIPv4) {
		a.flaws = truncated
		return
	}
	h := a.frame[a.l3:]
	a.source, a.destination = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	a.tos, a.hops, a.protocol = h[1], h[8], h[9]
	header := 4 * int(h[0]&15)
	a.end = a.l3 + int(binary.BigEndian.Uint16(h[2:]))
	a.l4 = a.l3 + header
	switch {
	case h[0]>>4 != 4, header < headerIPv4, a.length() < header:
		a.flaws = contradicts
	case a.end > len(a.frame):
		a.flaws = truncated
	default:
		bits := binary.BigEndian.Uint16(h[6:])
		a.setPart(bits&0x1fff != 0, bits&0x2000 != 0)
	}
}

func (a *anatomy) readIPv6() {
	if !a.reaches(a.l3 + headerIPv6) {
		a.flaws = truncated
		return
	}
	h := a.frame[a.l3:]
	a.source, a.destination = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
	a.tos, a.protocol, a.hops = h[0]<<4|h[1]>>4, h[6], h[7]
	a.end = a.l3 + headerIPv6 + int(binary.BigEndian.Uint16(h[4:]))
	a.l4 = a.l3 + headerIPv6
	switch {
	case h[0]>>4 != 6:
		a.flaws = contradicts
	case a.end > len(a.frame):
		a.flaws = truncated
	default:
		a.readChain()
	}
}

func (a *anatomy) setPart(offset, more bool) {
	switch {
	case offset:
		a.part = laterFragment
	case more:
		a.part = firstFragment
	}
}

// readChain follows extension headers. One that lies outside of its packet
// contradicts the length; what else is found there is as good a reason.
func (a *anatomy) readChain() {
	for n := 0; a.part != laterFragment; n++ {
		length := a.extensionLength()
		switch {
		case length == 0:
			return
		case n == mostExtensionHeaders:
			a.flaws |= overlong
			return
		case length < 0:
			a.flaws |= truncated
			return
		case a.protocol == numberFragment:
			bits := binary.BigEndian.Uint16(a.frame[a.l4+2:])
			a.fragmentAt = a.l4
			a.fragmentHeaders++
			a.setPart(bits&^7 != 0, bits&1 != 0)
		}
		a.protocol = a.frame[a.l4]
		a.l4 += length
		if a.l4 > a.end {
			a.flaws |= contradicts
		}
	}
}

// extensionLength is that of the extension header at l4: 0 if it is none, negative
// if its head is cut off.
func (a *anatomy) extensionLength() int {
	switch a.protocol {
	case numberHopByHop, numberRouting, numberFragment, numberAH, numberOptions:
	default:
		return 0
	}
	// As long as the shortest of them.
	if !a.reaches(a.l4 + 8) {
		return -1
	}
	units := int(a.frame[a.l4+1])
	switch a.protocol {
	case numberFragment:
		return 8
	case numberAH:
		return 4 * (units + 2)
	}
	return 8 * (units + 1)
}

// readTransport checks the headers of the transports that VIPs serve or answer.
func (a *anatomy) readTransport() {
	least := map[uint8]int{numberTCP: headerTCP, numberUDP: headerUDP, a.control(): headerUDP}[a.protocol]
	payload := a.end - a.l4
	switch {
	case least == 0:
		return
	case payload < least:
		a.flaws = contradicts
	case !a.reaches(a.l4 + least):
		a.flaws = truncated
	case a.protocol == numberTCP:
		if header := 4 * int(a.frame[a.l4+12]>>4); header < headerTCP || header > payload {
			a.flaws = contradicts
		}
	case a.protocol == numberUDP:
		if n := int(binary.BigEndian.Uint16(a.frame[a.l4+4:])); n < headerUDP || n > payload && a.part == whole {
			a.flaws = contradicts
		}
	}
}

// control is the number of the family's ICMP.
func (a *anatomy) control() uint8 {
	if a.ipv6 {
		return numberICMPv6
	}
	return numberICMP
}

// carriesFlow reports whether the packet is TCP or UDP and tells its ports.
func (a *anatomy) carriesFlow() bool {
	return a.flaws == 0 && a.part != laterFragment && (a.protocol == numberTCP || a.protocol == numberUDP)
}

// mayBeFlow reports whether a later fragment may be one of TCP or UDP, perhaps
// behind further extension headers.
func (a *anatomy) mayBeFlow() bool {
	switch a.protocol {
	case numberTCP, numberUDP:
		return true
	case numberHopByHop, numberRouting, numberFragment, numberAH, numberOptions:
		return a.ipv6
	}
	return false
}

// isControl reports whether the packet is ICMP of one of some types.
func (a *anatomy) isControl(ipv4, ipv6 []byte) bool {
	if a.flaws != 0 || a.l4 == 0 || a.part == laterFragment || a.protocol != a.control() {
		return false
	}
	if a.ipv6 {
		return slices.Contains(ipv6, a.frame[a.l4])
	}
	return slices.Contains(ipv4, a.frame[a.l4])
}

// isEchoRequest reports whether it is one that may be answered: fragments are not.
func (a *anatomy) isEchoRequest() bool {
	return a.part == whole && a.isControl([]byte{echoRequest4}, []byte{echoRequest6})
}

// isError: unreachable, time exceeded or parameter problem, and too big with ICMPv6.
func (a *anatomy) isError() bool {
	return a.isControl([]byte{3, 11, 12}, []byte{1, 2, 3, 4})
}

// flow is who speaks to whom.
func (a *anatomy) flow() Flow {
	return Flow{
		Source:      netip.AddrPortFrom(a.source, binary.BigEndian.Uint16(a.frame[a.l4:])),
		Destination: netip.AddrPortFrom(a.destination, binary.BigEndian.Uint16(a.frame[a.l4+2:])),
		Protocol:    model.Protocol(a.protocol),
	}
}

// quoted is the flow about which an ICMP error is, as its client's packets show
// it; false if it tells none.
func (a *anatomy) quoted() (Flow, bool) {
	// What is quoted may be cut off anywhere behind its ports, whatever its length says.
	q := anatomy{frame: a.frame, near: a.near, l3: a.l4 + headerUDP, end: math.MaxInt, ipv6: a.ipv6}
	header := map[bool]int{false: headerIPv4, true: headerIPv6}[a.ipv6]
	if !q.reaches(q.l3 + header) {
		return Flow{}, false
	}
	h := a.frame[q.l3:]
	if a.ipv6 {
		q.source, q.destination = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
		q.protocol, q.l4 = h[6], q.l3+headerIPv6
		q.readChain()
	} else {
		q.source, q.destination = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
		header = 4 * int(h[0]&15)
		q.protocol, q.l4 = h[9], q.l3+header
		q.setPart(binary.BigEndian.Uint16(h[6:])&0x1fff != 0, false)
	}
	version := map[bool]byte{false: 4, true: 6}[a.ipv6]
	if h[0]>>4 != version || header < headerIPv4 || q.flaws != 0 || q.part == laterFragment || !q.reaches(q.l4+4) || q.l4+4 > a.end {
		return Flow{}, false
	}
	f := q.flow()
	f.Source, f.Destination = f.Destination, f.Source
	return f, q.source == a.destination && (q.protocol == numberTCP || q.protocol == numberUDP)
}

// quotesOther reports whether an ICMP error may be about a protocol that no VIP has.
func (a *anatomy) quotesOther() bool {
	at := a.l4 + headerUDP + map[bool]int{false: 9, true: 6}[a.ipv6]
	protocol := a.frame[min(at, len(a.frame)-1)]
	return protocol != numberTCP && protocol != numberUDP
}

// segment is the TCP header of a flow without its options.
func (a *anatomy) segment() tcp {
	h := a.transport()
	return tcp{
		from: binary.BigEndian.Uint16(h), to: binary.BigEndian.Uint16(h[2:]),
		seq: binary.BigEndian.Uint32(h[4:]), ack: binary.BigEndian.Uint32(h[8:]),
		flags: h[13], data: h[4*int(h[12]>>4):],
	}
}

// isSYN reports whether the packet opens a TCP connection.
func (a *anatomy) isSYN() bool {
	return a.protocol == numberTCP && a.frame[a.l4+13]&(flagSYN|flagACK) == flagSYN
}

// mss is the offset in the frame of the largest segment size that a SYN announces,
// 0 if it announces none (RFC 9293, section 3.2).
func (a *anatomy) mss() int {
	end := min(a.l4+4*int(a.frame[a.l4+12]>>4), a.near)
	for at := a.l4 + headerTCP; at+4 <= end; {
		kind, length := a.frame[at], int(a.frame[at+1])
		switch {
		case kind == 1:
			at++
		case kind == 0 || length < 2 || kind == 2 && length != 4:
			return 0
		case kind == 2:
			return at + 2
		default:
			at += length
		}
	}
	return 0
}

// datagram is all that follows the UDP header.
func (a *anatomy) datagram() []byte { return a.frame[a.l4+headerUDP:] }

// isQUICOpener reports whether the datagram starts a QUIC connection: Initials and
// 0-RTT of versions 1 and 2 (RFC 9000, RFC 9369) to an ID that a client may have
// chosen, of 8 bytes or more; whatever has a long header else.
func (a *anatomy) isQUICOpener() bool {
	d := a.datagram()
	if len(d) < 6 || d[0]&0x80 == 0 {
		return false
	}
	kind, first := d[0]>>4&3, d[5] >= 8
	switch binary.BigEndian.Uint32(d[1:]) {
	case 1:
		return first && (kind == 0 || kind == 1)
	case 0x6b3343cf:
		return first && (kind == 1 || kind == 2)
	}
	return true
}

// connectionID is as much of the destination connection ID of a QUIC packet as may
// name a server. A packet that is shorter than the longest of these has none.
func (a *anatomy) connectionID() []byte {
	d, length := a.datagram(), 1+model.MaxServerIDLength
	if len(d) < 6 {
		return nil
	}
	id := d[1:]
	if d[0]&0x80 != 0 {
		id, length = d[6:], min(length, int(d[5]))
	}
	if len(id) < 1+model.MaxServerIDLength {
		return nil
	}
	return id[:length]
}
