package dataplane

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// TCP options (RFC 9293, 7323, 2018).
func mss(n uint16) []byte   { return []byte{2, 4, byte(n >> 8), byte(n)} }
func nops(n int) []byte     { return slices.Repeat([]byte{1}, n) }
func sackPermitted() []byte { return []byte{4, 2} }
func timestamps() []byte    { return []byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 2} }
func aligned(o ...[]byte) []byte {
	all := slices.Concat(o...)
	return append(all, make([]byte, (4-len(all)%4)%4)...)
}

// clamped is a SYN whose backend sees other options.
type clamped struct {
	name    string
	in, out []byte
}

// clampable are options of SYNs, and what becomes of them.
func clampable() []clamped {
	var all []clamped
	add := func(name string, in, out []byte) { all = append(all, clamped{name, in, out}) }
	for _, n := range []uint16{0, 1, 536, grantedMSS - 1, grantedMSS, grantedMSS + 1, 1460, 8960, math.MaxUint16} {
		add(fmt.Sprintf("of %d", n), mss(n), mss(min(n, grantedMSS)))
	}
	for n := range 9 {
		add(fmt.Sprintf("behind %d bytes", n), aligned(nops(n), mss(1460)), aligned(nops(n), mss(grantedMSS)))
	}
	for name, before := range map[string][]byte{
		"sack": sackPermitted(), "timestamps": timestamps(), "both": slices.Concat(sackPermitted(), timestamps()),
		"odd sack": slices.Concat(nops(1), sackPermitted()), "fast open": {34, 10, 1, 2, 3, 4, 5, 6, 7, 8}, "unknown": {253, 3, 0},
	} {
		add("behind "+name, aligned(before, mss(1460)), aligned(before, mss(grantedMSS)))
		add("before "+name, aligned(mss(1460), before), aligned(mss(grantedMSS), before))
	}
	add("at the very end", slices.Concat(nops(36), mss(1460)), slices.Concat(nops(36), mss(grantedMSS)))
	add("at an odd place near the end", slices.Concat(nops(35), mss(1460), nops(1)), slices.Concat(nops(35), mss(grantedMSS), nops(1)))
	add("twice", aligned(mss(1460), mss(9000)), aligned(mss(grantedMSS), mss(9000)))
	return all
}

// unclampable are options without an MSS that means something.
func unclampable() map[string][]byte {
	return map[string][]byte{
		"none":                  nil,
		"others":                aligned(sackPermitted(), timestamps()),
		"behind the end":        slices.Concat([]byte{0, 0, 0, 0}, mss(1460)),
		"option of length 0":    slices.Concat([]byte{8, 0, 1, 1}, mss(1460)),
		"option of length 1":    slices.Concat([]byte{8, 1, 1, 1}, mss(1460)),
		"mss of length 0":       {2, 0, 0x20, 0},
		"mss of length 2":       {2, 2, 0x20, 0},
		"mss of length 3":       {2, 3, 0x20, 0},
		"mss of length 5":       {2, 5, 0x20, 0, 0, 1, 1, 1},
		"mss cut off":           {1, 2, 4, 0x20},
		"mss cut off at length": {1, 1, 2, 4},
		"mss cut off at kind":   {1, 1, 1, 2},
		"option over the end":   slices.Concat([]byte{8, 40, 1, 1}, mss(1460)),
		"option of length 255":  slices.Concat([]byte{8, 255, 1, 1}, mss(1460)),
		"mss inside another":    slices.Concat([]byte{8, 8, 1, 1}, mss(1460)),
		"nops":                  nops(40),
	}
}

// clampRows are segments to VIPs that grant a maximum segment size.
func clampRows(l *lab, f family) []row {
	var rows []row
	for mode, port := range map[string]uint16{"l2": portClamped, "ipip": portClampedTunnel, "gue": portClampedGUE} {
		s := l.at(f, port)
		syn := func(options []byte) packet {
			return f.packet(tcp{from: 40000, to: port, seq: 1, flags: flagSYN, options: options, data: text(3)})
		}
		becomes := func(name string, in, out packet) {
			r := s.forwards("mss/"+mode+": "+name, in)
			r.out = s.forwarded(out).bytes()
			rows = append(rows, r)
		}
		for _, c := range clampable() {
			becomes(c.name, syn(c.in), syn(c.out))
		}
		for name, options := range unclampable() {
			becomes("nothing to clamp: "+name, syn(options), syn(options))
		}
		for name, flags := range map[string]uint8{"syn ack": flagSYN | flagACK, "ack": flagACK, "rst": flagRST, "nothing": 0} {
			in := syn(mss(1460))
			in.payload = tcp{from: 40000, to: port, flags: flags, options: mss(1460)}
			becomes("not of "+name, in, in)
		}
		in, out := syn(mss(1460)), syn(mss(grantedMSS))
		in.tags, out.tags = []tag{{etherVLAN, 9}}, nil
		becomes("with a tag", in, out)
		if f.ipv6 {
			in.extensions = []extension{hopByHop(1), destinationOptions(1)}
		} else {
			in.options = recordRoute()
		}
		out.extensions, out.options = in.extensions, in.options
		becomes("behind options of ip", in, out)
		becomes("not of udp", f.packet(udp{from: 9, to: port, data: mss(1460)}), f.packet(udp{from: 9, to: port, data: mss(1460)}))
		rows = append(rows, wrongSumRow(s, mode, syn(mss(1460)), syn(mss(grantedMSS))))
	}
	in := f.packet(tcp{from: 40000, to: portL2, flags: flagSYN, options: mss(1460)})
	return append(rows, l.at(f, portL2).forwards("mss/of a VIP that grants any", in))
}

// spoilSum makes a checksum of a frame wrong by something.
func spoilSum(frame []byte, at int, by uint16) []byte {
	sum := uint32(binary.BigEndian.Uint16(frame[at:])) + uint32(by)
	return set(frame, at, byte((sum+sum>>16)>>8), byte(sum+sum>>16))
}

// wrongSumRow has a checksum that is off by something, before and after.
func wrongSumRow(s service, mode string, in, out packet) row {
	const off = 0x1234
	r := s.forwards("mss/"+mode+": wrong checksum", in)
	sent := s.forwarded(out)
	frame := sent.bytes()
	inner := len(frame) - len(sent.ip())
	r.in, r.out = spoilSum(r.in, in.l4()+16, off), spoilSum(frame, inner+sent.l4()-sent.l3()+16, off)
	if sent.gue != nil && sent.gue.summed {
		// It is among what the checksum outside is over.
		r.out = spoilSum(r.out, inner-headerGUE+6, ^uint16(off))
	}
	r.rough = true
	return r
}
