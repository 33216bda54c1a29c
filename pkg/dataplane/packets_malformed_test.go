package dataplane

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// judged are two rows of one flaw: a VIP's packet is dropped for a reason, a
// foreign one passes.
func judged(f family, name, reason string, flaw func(packet) []byte, p packet) []row {
	foreign := p
	foreign.destination = f.foreign
	return []row{
		malformed(f, name, reason, flaw(p)),
		malformed(f, name+", foreign", "pass_not_vip", flaw(foreign)),
	}
}

// cutAt is a frame's first n bytes.
func cutAt(n int) func(packet) []byte {
	return func(p packet) []byte { return p.bytes()[:n] }
}

// truncatedRows end one byte before the end of each header.
func truncatedRows(_ *lab, f family) []row {
	var rows []row
	t := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN, options: []byte{2, 4, 5, 0xb4}, data: text(10)})
	u := f.packet(udp{from: 4000, to: portL2, data: text(10)})
	e := f.packet(f.echoRequest(1, 10))
	for name, tags := range map[string][]tag{"": nil, "behind tags ": {{etherQinQ, 1}, {etherVLAN, 2}}} {
		t.tags, u.tags, e.tags = tags, tags, tags
		add := func(where, reason string, n int, p packet) {
			rows = append(rows, judged(f, "truncated/"+name+where, reason, cutAt(n), p)...)
		}
		ipEnd := t.l3() + headerIPv4
		if f.ipv6 {
			ipEnd = t.l3() + headerIPv6
		}
		// Whose it is stands in what is cut off.
		add("ip missing", "pass_not_vip", t.l3(), t)
		add("ip", "pass_not_vip", ipEnd-1, t)
		add("ip alone", "drop_truncated", ipEnd, t)
		add("tcp", "drop_truncated", t.l4()+headerTCP-1, t)
		add("tcp options", "drop_truncated", t.l4()+headerTCP+3, t)
		add("tcp data", "drop_truncated", t.l4()+headerTCP+4+9, t)
		add("udp", "drop_truncated", u.l4()+headerUDP-1, u)
		add("udp data", "drop_truncated", u.l4()+headerUDP+9, u)
		add("icmp", "drop_truncated", e.l4()+headerUDP-1, e)
		add("icmp data", "drop_truncated", e.l4()+headerUDP+9, e)
	}
	if f.ipv6 {
		return append(rows, truncatedExtensionRows(f)...)
	}
	o := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN})
	o.options = recordRoute()
	rows = append(rows, judged(f, "truncated/options missing", "drop_truncated", cutAt(o.l3()+headerIPv4), o)...)
	return append(rows, judged(f, "truncated/options", "drop_truncated", cutAt(o.l4()-1), o)...)
}

func truncatedExtensionRows(f family) []row {
	var rows []row
	for _, e := range extensions()[:7] {
		p := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN})
		p.extensions = e.chain
		rows = append(rows, judged(f, "truncated/"+e.name, "drop_truncated", cutAt(p.l4()-1), p)...)
		// The same with a length that agrees, so that only the chain is cut off.
		agreeing := func(n int) func(packet) []byte {
			return func(p packet) []byte { return setLength(p, p.bytes()[:p.l3()+headerIPv6+n]) }
		}
		reason := "drop_malformed"
		if last := e.chain[len(e.chain)-1]; len(last.body) == 8 {
			// What tells its length is read in one piece.
			reason = "drop_truncated"
		}
		rows = append(rows, judged(f, "truncated/"+e.name+" by its length", reason, agreeing(p.l4()-p.l3()-headerIPv6-1), p)...)
		rows = append(rows, judged(f, "truncated/"+e.name+" missing", "drop_truncated", agreeing(0), p)...)
		rows = append(rows, judged(f, "truncated/"+e.name+" of one byte", "drop_truncated", agreeing(1), p)...)
	}
	return rows
}

// setLength has the IP header say what the frame holds.
func setLength(p packet, frame []byte) []byte { return withLength(p, frame, len(frame)-p.l3()) }

// withLength has the IP header claim a length of the whole IP packet.
func withLength(p packet, frame []byte, length int) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(length))
	if p.ipv6() {
		b = binary.BigEndian.AppendUint16(nil, uint16(length-headerIPv6))
		return set(frame, p.l3()+4, b...)
	}
	return set(frame, p.l3()+2, b...)
}

// malformedRows have headers that contradict themselves.
func malformedRows(l *lab, f family) []row {
	t := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN, data: text(10)})
	u := f.packet(udp{from: 4000, to: portL2, data: text(10)})
	var rows []row
	add := func(name, reason string, p packet, flaw func(packet) []byte) {
		rows = append(rows, judged(f, "malformed/"+name, reason, flaw, p)...)
	}
	length := func(n int) func(packet) []byte {
		return func(p packet) []byte { return withLength(p, p.bytes(), n) }
	}
	byteAt := func(at int, value byte) func(packet) []byte {
		return func(p packet) []byte { return set(p.bytes(), at, value) }
	}
	whole, header := len(t.ip()), t.l4()-t.l3()
	add("length one beyond the frame", "drop_truncated", t, length(whole+1))
	add("length far beyond the frame", "drop_truncated", t, length(0xffff))
	add("length of ip alone", "drop_malformed", t, length(header))
	add("length cuts tcp", "drop_malformed", t, length(header+headerTCP-1))
	add("length cuts udp", "drop_malformed", u, length(header+headerUDP-1))
	add("length cuts tcp options", "drop_malformed", f.packet(tcp{to: portL2, options: make([]byte, 8)}), length(header+headerTCP+7))
	for version := range byte(16) {
		if (version == 4 && !f.ipv6) || (version == 6 && f.ipv6) {
			continue
		}
		add(fmt.Sprintf("version %d", version), "drop_malformed", t, byteAt(t.l3(), version<<4|t.bytes()[t.l3()]&15))
	}
	for n := range byte(8) {
		add(fmt.Sprintf("udp length %d", n), "drop_malformed", u, byteAt(u.l4()+5, n))
	}
	add("udp length one beyond", "drop_malformed", u, byteAt(u.l4()+5, headerUDP+10+1))
	add("udp length far beyond", "drop_malformed", u, byteAt(u.l4()+4, 0xff))
	for words := range byte(5) {
		add(fmt.Sprintf("tcp header of %d words", words), "drop_malformed", t, byteAt(t.l4()+12, words<<4))
	}
	add("tcp header beyond the packet", "drop_malformed", t, byteAt(t.l4()+12, 8<<4))
	add("tcp header far beyond the packet", "drop_malformed", t, byteAt(t.l4()+12, 0xf0))
	if f.ipv6 {
		add("payload length 0", "drop_malformed", t, length(headerIPv6))
		return rows
	}
	for words := range byte(5) {
		add(fmt.Sprintf("header of %d words", words), "drop_malformed", t, byteAt(t.l3(), 0x40|words))
	}
	add("header beyond the packet", "drop_malformed", f.packet(udp{to: portL2}), byteAt(t.l3(), 0x4f))
	for _, n := range []int{0, 1, headerIPv4 - 1} {
		add(fmt.Sprintf("length %d", n), "drop_malformed", t, length(n))
	}
	return append(rows, shortUDPRow(l, f))
}

// shortUDPRow has data behind the datagram, as UDP options have (RFC 9868): it is good.
func shortUDPRow(l *lab, f family) row {
	u := f.packet(udp{from: 4000, to: portL2, data: text(10)})
	r := l.at(f, portL2).forwards("malformed/not: data behind the datagram", u)
	r.in, r.out = set(r.in, u.l4()+5, headerUDP), set(r.out, u.l4()+5, headerUDP)
	r.rough = true
	return r
}

// TestEveryTruncation cuts good frames at every length: whatever is left, a
// foreign packet passes, a VIP's is never sent on, and nothing is changed.
func TestEveryTruncation(t *testing.T) {
	p := loaded(t, smallLimits())
	applyTo(t, p, stateOf(services(loopback)))
	for _, f := range families() {
		good := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN, options: make([]byte, 12), data: text(10)})
		good.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}}
		if f.ipv6 {
			good.extensions = extensions()[6].chain
		} else {
			good.options = recordRoute()
		}
		for _, destination := range []bool{true, false} {
			in, fate := good, uint32(xdpDrop)
			if !destination {
				in.destination, fate = f.foreign, xdpPass
			}
			addressEnd := in.l3() + headerIPv4
			if f.ipv6 {
				addressEnd = in.l3() + headerIPv6
			}
			frame := in.bytes()
			for n := headerEthernet; n < len(frame); n++ {
				want := fate
				if n < addressEnd {
					want = xdpPass
				}
				verdict, out, err := send(p, frame[:n])
				if err != nil {
					t.Fatal(err)
				}
				if err := checkBytes(out, frame[:n]); err != nil || verdict != want {
					t.Errorf("%s to %s, %d bytes: verdict %d, want %d; %v", f.name, in.destination, n, verdict, want, err)
				}
			}
		}
	}
}
