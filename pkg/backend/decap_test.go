package backend

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	xdpDrop = 1
	xdpPass = 2
)

// frame serializes headers behind Ethernet and VLAN tags; lengths, checksums and
// the fields that name the next header are filled in.
func frame(t testing.TB, tags int, headers ...gopacket.SerializableLayer) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}}
	link := []gopacket.SerializableLayer{eth}
	next := &eth.EthernetType
	for i := range tags {
		*next = layers.EthernetTypeDot1Q
		if i == 0 && tags > 1 {
			*next = layers.EthernetTypeQinQ
		}
		tag := &layers.Dot1Q{VLANIdentifier: uint16(100 + i), Priority: 5}
		link, next = append(link, tag), &tag.Type
	}
	*next = layers.EthernetTypeIPv4
	if _, ok := headers[0].(*layers.IPv6); ok {
		*next = layers.EthernetTypeIPv6
	}
	for i, h := range headers[:len(headers)-1] {
		announce(h, headers[i+1])
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, append(link, headers...)...); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func announce(h, next gopacket.SerializableLayer) {
	protocol := layers.IPProtocolUDP
	switch next.(type) {
	case *layers.IPv4:
		protocol = layers.IPProtocolIPv4
	case *layers.IPv6:
		protocol = layers.IPProtocolIPv6
	case gopacket.Payload:
		return
	}
	switch h := h.(type) {
	case *layers.IPv4:
		h.Protocol = protocol
	case *layers.IPv6:
		h.NextHeader = protocol
	case *layers.AGUEVar0:
		h.Protocol = protocol
	}
	if udp, ok := next.(*layers.UDP); ok {
		if err := udp.SetNetworkLayerForChecksum(h.(gopacket.NetworkLayer)); err != nil {
			panic(err)
		}
	}
}

// ip is an IP header whose family is that of its addresses, tos its whole octet.
func ip(src, dst string, tos uint8) gopacket.SerializableLayer {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		return &layers.IPv4{Version: 4, TOS: tos, Id: 0x1234, TTL: 63, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
	}
	return &layers.IPv6{Version: 6, TrafficClass: tos, FlowLabel: 0xabcde, HopLimit: 63, SrcIP: s.AsSlice(), DstIP: d.AsSlice()}
}

func ipv4(change func(*layers.IPv4)) *layers.IPv4 {
	h := ip("10.0.0.1", "10.0.1.10", 0).(*layers.IPv4)
	change(h)
	return h
}

// datagram is a UDP header and payload.
func datagram() []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{
		&layers.UDP{SrcPort: 40000, DstPort: 53}, gopacket.Payload("long enough that no frame is padded"),
	}
}

func behind(headers ...gopacket.SerializableLayer) []gopacket.SerializableLayer {
	return append(headers, datagram()...)
}

// combination is one of the four of outer and inner family.
type combination struct{ name, balancer, backend, client, vip string }

func combinations() []combination {
	return []combination{
		{"4in4", "10.0.0.1", "10.0.1.10", "198.51.100.7", "192.0.2.1"},
		{"6in4", "10.0.0.1", "10.0.1.10", "2001:db8:c::7", "2001:db8::1"},
		{"4in6", "2001:db8:b::1", "2001:db8:b:1::10", "198.51.100.7", "192.0.2.1"},
		{"6in6", "2001:db8:b::1", "2001:db8:b:1::10", "2001:db8:c::7", "2001:db8::1"},
	}
}

func (c combination) outer(tos uint8) gopacket.SerializableLayer {
	return ip(c.balancer, c.backend, tos)
}
func (c combination) inner(tos uint8) gopacket.SerializableLayer { return ip(c.client, c.vip, tos) }

// headerLength is that of an IP header without options.
func headerLength(addr string) int {
	if netip.MustParseAddr(addr).Is4() {
		return 20
	}
	return 40
}

// lengthAt is the offset in such a header of the last byte of the packet's length.
func lengthAt(addr string) int {
	if netip.MustParseAddr(addr).Is4() {
		return 3
	}
	return 5
}

type row struct {
	name string
	in   []byte
	// want is nil for a packet that must not change.
	want   []byte
	reason decapDecapReason
}

// newDecapsulator takes GUE out on a UDP port, 0 for none.
func newDecapsulator(t testing.TB, guePort uint16) *decapsulator {
	t.Helper()
	d, err := loadDecapsulator(&Options{
		VIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Balancers: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/28"), netip.MustParsePrefix("203.0.113.9/32"),
			netip.MustParsePrefix("2001:db8:b::/64"), netip.MustParsePrefix("2001:db8:f::9/128"),
		},
		GUEPort: guePort,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *decapsulator) run(t testing.TB, in []byte) (verdict uint32, out []byte) {
	t.Helper()
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	verdict, err := d.objects.SteelyardDecap.Run(opts)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, opts.DataOut
}

func (d *decapsulator) mustCount(t testing.TB) []uint64 {
	t.Helper()
	reasons, err := d.counts()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]uint64, len(reasons))
	for i, r := range reasons {
		out[i] = r.Packets
	}
	return out
}

func TestDecapPackets(t *testing.T) {
	d := newDecapsulator(t, guePort)
	if info, err := d.objects.SteelyardDecap.Info(); err == nil {
		n, _ := info.VerifiedInstructions()
		t.Logf("the verifier processed %d instructions", n)
	}
	var rows []row
	for _, e := range encapsulations() {
		rows = append(rows, tunnelRows(t, e)...)
		rows = append(rows, ecnRows(t, e)...)
		rows = append(rows, refusedRows(t, e)...)
	}
	rows = slices.Concat(rows, untouchedRows(t), gueRows(t), guePassedRows(t), gueDroppedRows(t))
	t.Logf("%d rows", len(rows))
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { d.check(t, r) })
	}
}

func (d *decapsulator) check(t *testing.T, r row) {
	before := d.mustCount(t)
	verdict, out := d.run(t, r.in)
	after := d.mustCount(t)
	wantVerdict := uint32(xdpPass)
	if r.reason >= decapDecapReasonDROP_TUNNEL_MALFORMED {
		wantVerdict = xdpDrop
	}
	if verdict != wantVerdict {
		t.Errorf("verdict %d, want %d", verdict, wantVerdict)
	}
	want := r.want
	if want == nil {
		want = r.in
	}
	if !bytes.Equal(out, want) {
		t.Errorf("bytes\n%swant\n%s", hex.Dump(out), hex.Dump(want))
	}
	before[r.reason]++
	if !slices.Equal(after, before) {
		t.Errorf("counts %v, want %v (%v)", after, before, d.reasons)
	}
}

// tunnelRows are packets that are decapsulated. Expected packets are serialized
// anew, checksums included, not cut out of the tunnel.
func tunnelRows(t testing.TB, e encapsulation) []row {
	var rows []row
	add := func(name string, tags int, inner gopacket.SerializableLayer, outer gopacket.SerializableLayer) {
		rows = append(rows, row{e.name + ", " + name,
			frame(t, tags, behind(e.around(outer, inner)...)...), frame(t, tags, behind(inner)...),
			decapDecapReasonPASS_DECAPSULATED})
	}
	for _, c := range combinations() {
		for tags := range 3 {
			add(fmt.Sprintf("%s, %d tags", c.name, tags), tags, c.inner(0), c.outer(0))
			add(fmt.Sprintf("%s, %d tags, DSCP stays", c.name, tags), tags, c.inner(0x28), c.outer(0xb8))
		}
	}
	for _, c := range combinations()[:2] {
		for _, words := range []int{1, 10} {
			for tags := range 3 {
				outer := ipv4(func(h *layers.IPv4) {
					for range 4 * words {
						h.Options = append(h.Options, layers.IPv4Option{OptionType: 1})
					}
				})
				add(fmt.Sprintf("%s, %d tags, %d words of options", c.name, tags, words), tags, c.inner(0), outer)
			}
		}
	}
	c4, c6 := combinations()[0], combinations()[3]
	add("do not fragment", 0, c4.inner(0), ipv4(func(h *layers.IPv4) { h.Flags = layers.IPv4DontFragment }))
	add("TTL used up outside", 0, c4.inner(0), ipv4(func(h *layers.IPv4) { h.TTL = 1 }))
	add("last of prefix", 0, c4.inner(0), ip("10.0.0.15", "10.0.1.10", 0))
	add("single balancer", 0, c4.inner(0), ip("203.0.113.9", "10.0.1.10", 0))
	add("single balancer, IPv6", 0, c6.inner(0), ip("2001:db8:f::9", "2001:db8:b:1::10", 0))
	add("last of prefix, IPv6", 0, c6.inner(0), ip("2001:db8:b::ffff:ffff:ffff:ffff", "2001:db8:b:1::10", 0))
	add("inner fragment", 0, ipv4(func(h *layers.IPv4) {
		h.SrcIP, h.DstIP, h.Flags = []byte{198, 51, 100, 7}, []byte{192, 0, 2, 1}, layers.IPv4MoreFragments
	}), c4.outer(0))
	for _, c := range combinations() {
		payload := gopacket.Payload(bytes.Repeat([]byte{0x5a}, 8900))
		udp := func() *layers.UDP { return &layers.UDP{SrcPort: 40000, DstPort: 53} }
		rows = append(rows, row{e.name + ", " + c.name + ", jumbo in several buffers",
			frame(t, 0, append(e.around(c.outer(0), c.inner(0)), udp(), payload)...), frame(t, 0, c.inner(0), udp(), payload),
			decapDecapReasonPASS_DECAPSULATED})
	}
	return rows
}

// ecnRows are figure 4 of RFC 6040, for every combination.
func ecnRows(t testing.TB, e encapsulation) []row {
	const drop = 0xff
	names := [4]string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}
	table := [4][4]uint8{ // by inner, then outer, in the order of names
		{0, 0, 0, drop},
		{1, 1, 1, 3},
		{2, 1, 2, 3},
		{3, 3, 3, 3},
	}
	var rows []row
	for _, c := range combinations() {
		for inner, outcomes := range table {
			for outer, ecn := range outcomes {
				const dscp = 0xb8
				r := row{name: fmt.Sprintf("%s, %s, %s in %s", e.name, c.name, names[inner], names[outer]),
					in: frame(t, 0, behind(e.around(c.outer(uint8(outer)), c.inner(dscp|uint8(inner)))...)...)}
				if ecn == drop {
					r.reason = decapDecapReasonDROP_TUNNEL_CONGESTION
				} else {
					r.reason = decapDecapReasonPASS_DECAPSULATED
					r.want = frame(t, 0, behind(c.inner(dscp|ecn))...)
				}
				rows = append(rows, r)
			}
		}
	}
	return rows
}

// refusedRows are tunnels' packets that are not to be decapsulated.
func refusedRows(t testing.TB, e encapsulation) []row {
	var rows []row
	add := func(name string, in []byte, reason decapDecapReason) {
		rows = append(rows, row{name: e.name + ", " + name, in: in, reason: reason})
	}
	c4, c6 := combinations()[0], combinations()[3]
	for _, source := range []string{"10.0.0.16", "9.255.255.255", "203.0.113.8", "0.0.0.0"} {
		add("no balancer "+source, frame(t, 0, behind(e.around(ip(source, "10.0.1.10", 0), c4.inner(0))...)...),
			decapDecapReasonPASS_NOT_BALANCER)
	}
	for _, source := range []string{"2001:db8:b:1::1", "2001:db8:f::8", "::10.0.0.1", "::ffff:0:10.0.0.1"} {
		add("no balancer "+source, frame(t, 0, behind(e.around(ip(source, "2001:db8:b:1::10", 0), c6.inner(0))...)...),
			decapDecapReasonPASS_NOT_BALANCER)
	}
	for _, c := range combinations() {
		other := "192.0.2.2"
		if netip.MustParseAddr(c.vip).Is6() {
			other = "2001:db8::2"
		}
		add(c.name+", no VIP", frame(t, 1, behind(e.around(c.outer(3), ip(c.client, other, 0))...)...), decapDecapReasonPASS_NOT_OURS)
		add(c.name+", tunnel in tunnel", frame(t, 0, behind(e.around(c.outer(0), c.outer(0), c.inner(0))...)...), decapDecapReasonPASS_NOT_OURS)

		whole := frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...)
		inner := 14 + headerLength(c.balancer) + e.length
		end := inner + headerLength(c.vip)
		for _, length := range []int{end - 1, inner + 8, inner + 1, inner} {
			add(fmt.Sprintf("%s, inner header cut off at %d", c.name, length-inner), whole[:length], decapDecapReasonDROP_TUNNEL_MALFORMED)
		}
		if !e.implicit {
			add(c.name+", inner version is not what the protocol says", changed(whole, inner, whole[inner]^0x20), decapDecapReasonDROP_TUNNEL_MALFORMED)
		}
		add(c.name+", inner packet longer than its tunnel's", changed(whole, inner+lengthAt(c.vip), whole[inner+lengthAt(c.vip)]+1), decapDecapReasonDROP_TUNNEL_MALFORMED)
		outer := 14 + lengthAt(c.balancer)
		add(c.name+", tunnel's packet shorter than the inner one", changed(whole, outer, whole[outer]-1), decapDecapReasonDROP_TUNNEL_MALFORMED)
		add(c.name+", tunnel's packet of no length", changed(whole, outer-1, 0, 0), decapDecapReasonDROP_TUNNEL_MALFORMED)
	}
	short := frame(t, 0, behind(e.around(c4.outer(0), c4.inner(0))...)...)[:14+60]
	short[14] = 0x4f
	if e.length == 0 {
		add("options beyond the end", short, decapDecapReasonDROP_TUNNEL_MALFORMED)
	} else {
		add("options beyond the end", short, decapDecapReasonPASS_NOT_TUNNEL)
	}
	return rows
}

// untouchedRows are packets that are no tunnel's, or none that can be decapsulated.
func untouchedRows(t testing.TB) []row {
	var rows []row
	add := func(name string, in []byte) {
		rows = append(rows, row{name: name, in: in, reason: decapDecapReasonPASS_NOT_TUNNEL})
	}
	c4, c6 := combinations()[0], combinations()[3]
	for _, c := range []combination{c4, c6} {
		add("plain to VIP "+c.vip, frame(t, 0, behind(c.inner(3))...))
		add("plain from balancer "+c.balancer, frame(t, 2, behind(c.outer(0))...))
		add("three tags "+c.vip, frame(t, 3, behind(c.outer(0), c.inner(0))...))
		whole := frame(t, 0, behind(c.outer(0), c.inner(0))...)
		for _, length := range []int{14, 15, 14 + headerLength(c.balancer) - 1} {
			add(fmt.Sprintf("outer header cut off at %d, %s", length, c.balancer), whole[:length])
		}
		other := bytes.Clone(whole)
		other[14] ^= 0x20
		add("outer version is not what the ethertype says, "+c.balancer, other)
	}
	add("first fragment", frame(t, 0, behind(ipv4(func(h *layers.IPv4) { h.Flags = layers.IPv4MoreFragments }), c4.inner(0))...))
	add("last fragment", frame(t, 0, behind(ipv4(func(h *layers.IPv4) { h.FragOffset = 185 }), c4.inner(0))...))
	add("mapped source", frame(t, 0, behind(mapped("10.0.0.1", "2001:db8:b:1::10"), c4.inner(0))...))
	gre := frame(t, 0, behind(c4.outer(0), c4.inner(0))...)
	gre[23] = byte(layers.IPProtocolGRE)
	add("GRE", gre)
	fragment := frame(t, 0, behind(c6.outer(0), c6.inner(0))...)
	fragment[20] = byte(layers.IPProtocolIPv6Fragment)
	add("IPv6 fragment header", fragment)
	arp := frame(t, 0, behind(c4.outer(0), c4.inner(0))...)
	arp[12], arp[13] = 0x08, 0x06
	add("ARP", arp)
	noOptions := frame(t, 0, behind(c4.outer(0), c4.inner(0))...)
	noOptions[14] = 0x44
	add("header length below 5", noOptions)
	return rows
}

// mapped is an IPv6 header with an IPv4-mapped source, which must not be on the wire.
func mapped(src, dst string) gopacket.SerializableLayer {
	h := ip(dst, dst, 0).(*layers.IPv6)
	b := netip.MustParseAddr(src).As16()
	h.SrcIP = b[:]
	return h
}

// TestCongestionChecksum marks packets whose header checksums take every value.
func TestCongestionChecksum(t *testing.T) {
	d := newDecapsulator(t, 0)
	const outer, inner = 14, 34
	in := frame(t, 0, behind(ip("10.0.0.1", "10.0.1.10", 3), ip("198.51.100.7", "192.0.2.1", 2))...)
	wrong := 0
	for id := range 1 << 16 {
		in[inner+4], in[inner+5] = byte(id>>8), byte(id)
		in[inner+10], in[inner+11] = 0, 0
		sum := checksum(in[inner : inner+20])
		in[inner+10], in[inner+11] = byte(sum>>8), byte(sum)
		_, out := d.run(t, in)
		got := bytes.Clone(out[outer : outer+20])
		if got[1] != 3 || checksum(got) != 0 {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of 65536 headers with a wrong checksum", wrong)
	}
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
