package backend

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// guePort is that of the tests, IANA's.
const guePort = 6080

// encapsulation is what stands between outer and inner IP header. Headers of GUE
// are serialized by gopacket, which knows the draft without us.
type encapsulation struct {
	name string
	// length of the headers between, bytes.
	length int
	// implicit: the inner header itself says what it is.
	implicit bool
	headers  func() []gopacket.SerializableLayer
}

func encapsulations() []encapsulation {
	fields := func(words int) func() []gopacket.SerializableLayer {
		return func() []gopacket.SerializableLayer {
			// Bytes that would pass for an IPv4 header.
			return gue(&layers.AGUEVar0{Extensions: bytes.Repeat([]byte{0x45, 0, 0, 0x40}, words)})
		}
	}
	return []encapsulation{
		{"IPIP", 0, false, func() []gopacket.SerializableLayer { return nil }},
		{"GUE", 12, false, fields(0)},
		{"GUE with a word of fields", 16, false, fields(1)},
		{"GUE with 31 words of fields", 136, false, fields(31)},
		{"GUE variant 1", 8, true, func() []gopacket.SerializableLayer { return gue(&layers.AGUEVar1{}) }},
	}
}

// gue is a header of GUE behind one of UDP.
func gue(header gopacket.SerializableLayer) []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{&layers.UDP{SrcPort: 0xc123, DstPort: guePort}, header}
}

// around puts the headers between an outer one and what is inside.
func (e encapsulation) around(outer gopacket.SerializableLayer, inside ...gopacket.SerializableLayer) []gopacket.SerializableLayer {
	return append(append([]gopacket.SerializableLayer{outer}, e.headers()...), inside...)
}

// throughGUE are the encapsulations with a UDP header.
func throughGUE() []encapsulation { return encapsulations()[1:] }

// udpAt is the offset of the UDP header in an untagged frame.
func (c combination) udpAt() int { return 14 + headerLength(c.balancer) }

// changed is a copy of a frame with some bytes replaced.
func changed(frame []byte, at int, with ...byte) []byte {
	out := bytes.Clone(frame)
	copy(out[at:], with)
	return out
}

// gueRows are packets that are decapsulated whatever their UDP checksum is. In
// other rows it is right.
func gueRows(t testing.TB) []row {
	var rows []row
	for _, e := range throughGUE() {
		for _, c := range combinations() {
			in := frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...)
			add := func(name string, in []byte) {
				rows = append(rows, row{e.name + ", " + c.name + ", " + name, in, frame(t, 0, behind(c.inner(0))...), decapDecapReasonPASS_DECAPSULATED})
			}
			add("no UDP checksum", changed(in, c.udpAt()+6, 0, 0))
			add("wrong UDP checksum", changed(in, c.udpAt()+6, ^in[c.udpAt()+6]))
			add("another source port", changed(in, c.udpAt(), 0, 1))
		}
	}
	// What the UDP datagram does not cover goes to the kernel with the rest.
	c := combinations()[0]
	for _, e := range throughGUE() {
		in := append(frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...), 0, 0, 0)
		rows = append(rows, row{e.name + ", padded", in, append(frame(t, 0, behind(c.inner(0))...), 0, 0, 0), decapDecapReasonPASS_DECAPSULATED})
	}
	return rows
}

// guePassedRows are datagrams that are not, or not wholly, GUE to be taken out.
func guePassedRows(t testing.TB) []row {
	var rows []row
	add := func(name string, in []byte, reason decapDecapReason) {
		rows = append(rows, row{name: name, in: in, reason: reason})
	}
	for _, e := range throughGUE() {
		for _, c := range combinations() {
			whole := frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...)
			name := e.name + ", " + c.name
			udp := c.udpAt()
			for _, port := range []uint16{6081, 0, 0xc017} { // the last one is 6080 with its bytes swapped
				add(fmt.Sprintf("%s, port %d", name, port), changed(whole, udp+2, byte(port>>8), byte(port)), decapDecapReasonPASS_NOT_TUNNEL)
			}
			add(name+", from its port to another", changed(whole, udp, whole[udp+2], whole[udp+3], whole[udp], whole[udp+1]), decapDecapReasonPASS_NOT_TUNNEL)
			protocol := map[int]int{20: 23, 40: 20}[headerLength(c.balancer)]
			add(name+", TCP", changed(whole, protocol, byte(layers.IPProtocolTCP)), decapDecapReasonPASS_NOT_TUNNEL)
			add(name+", UDP-Lite", changed(whole, protocol, byte(layers.IPProtocolUDPLite)), decapDecapReasonPASS_NOT_TUNNEL)
			for _, length := range []int{7, 3, 0} {
				add(fmt.Sprintf("%s, UDP header cut off at %d", name, length), whole[:udp+length], decapDecapReasonPASS_NOT_TUNNEL)
			}
			if headerLength(c.balancer) == 20 {
				add(name+", first fragment", changed(whole, 20, 0x20), decapDecapReasonPASS_NOT_TUNNEL)
				add(name+", later fragment", changed(whole, 20, 0x00, 0xb9), decapDecapReasonPASS_NOT_TUNNEL)
			} else {
				add(name+", fragment header", changed(whole, protocol, byte(layers.IPProtocolIPv6Fragment)), decapDecapReasonPASS_NOT_TUNNEL)
			}
		}
	}
	for _, c := range combinations() {
		for _, control := range []*layers.AGUEVar0{
			{C: true}, {C: true, Flags: 0x8000}, {C: true, Extensions: make([]byte, 8)},
		} {
			add(fmt.Sprintf("control message %+v, %s", *control, c.name),
				frame(t, 0, append(append([]gopacket.SerializableLayer{c.outer(0)}, gue(control)...), behind(c.inner(0))...)...),
				decapDecapReasonPASS_TUNNEL_CONTROL)
		}
	}
	return rows
}

// gueDroppedRows are datagrams of balancers whose GUE headers are broken or more
// than we know.
func gueDroppedRows(t testing.TB) []row {
	var rows []row
	add := func(name string, in []byte, reason decapDecapReason) {
		rows = append(rows, row{name: name, in: in, reason: reason})
	}
	const malformed, unsupported = decapDecapReasonDROP_TUNNEL_MALFORMED, decapDecapReasonDROP_TUNNEL_UNSUPPORTED
	for _, c := range combinations() {
		udp := c.udpAt()
		header := udp + 8
		for _, e := range throughGUE() {
			whole := frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...)
			name := e.name + ", " + c.name
			for _, length := range []int{0, 1, 3, max(3, e.length-9)} {
				add(fmt.Sprintf("%s, GUE cut off at %d", name, length), whole[:header+length], malformed)
			}
			length := int(binary.BigEndian.Uint16(whole[udp+4:]))
			for _, wrong := range []int{0, 7, e.length - 1, e.length, length - 1, length + 1} {
				add(fmt.Sprintf("%s, UDP length %d of %d", name, wrong, length), changed(whole, udp+4, byte(wrong>>8), byte(wrong)), malformed)
			}
		}
		whole := frame(t, 0, behind(throughGUE()[0].around(c.outer(0), c.inner(0))...)...)
		for bit := range 16 {
			flags := uint16(1) << bit
			add(fmt.Sprintf("flag %#04x, %s", flags, c.name), changed(whole, header+2, byte(flags>>8), byte(flags)), unsupported)
			// As if it were right: with the field that it announces.
			e := encapsulation{headers: func() []gopacket.SerializableLayer {
				return gue(&layers.AGUEVar0{Flags: flags, Extensions: make([]byte, 4)})
			}}
			add(fmt.Sprintf("flag %#04x and its field, %s", flags, c.name), frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...), unsupported)
		}
		for _, protocol := range []layers.IPProtocol{0, layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolGRE, layers.IPProtocolNoNextHeader, 255} {
			add(fmt.Sprintf("%s inside, %s", protocol, c.name), changed(whole, header+1, byte(protocol)), unsupported)
		}
		for _, start := range []byte{0x80, 0xc0, 0x50, 0x55, 0x70, 0xa0, 0xff} {
			add(fmt.Sprintf("GUE begins with %#x, %s", start, c.name), changed(whole, header, start), unsupported)
		}
		add("fields beyond the end, "+c.name, changed(whole, header, 0x1f), malformed)
	}
	return rows
}

// TestWithoutGUE: the very packets that are taken out are left to the kernel
// without a port, or with another; IP in IP is taken out as ever.
func TestWithoutGUE(t *testing.T) {
	for _, port := range []uint16{0, guePort + 1} {
		d := newDecapsulator(t, port)
		if info, err := d.objects.SteelyardDecap.Info(); err == nil {
			n, _ := info.VerifiedInstructions()
			t.Logf("port %d: the verifier processed %d instructions", port, n)
		}
		for _, e := range encapsulations() {
			for _, r := range tunnelRows(t, e) {
				if e.length > 0 {
					r.want, r.reason = nil, decapDecapReasonPASS_NOT_TUNNEL
				}
				t.Run(fmt.Sprintf("port %d, %s", port, r.name), func(t *testing.T) { d.check(t, r) })
			}
		}
	}
}

// TestGUEVocabulary reads our packets back with gopacket, as a receiver that has
// nothing of ours, on the port that it knows GUE by.
func TestGUEVocabulary(t *testing.T) {
	const theirs = 666
	for _, e := range throughGUE() {
		for _, c := range combinations() {
			in := frame(t, 0, behind(e.around(c.outer(0), c.inner(0))...)...)
			p := gopacket.NewPacket(changed(in, c.udpAt()+2, theirs>>8, theirs&0xff), layers.LayerTypeEthernet, gopacket.Default)
			all := p.Layers()
			if len(all) < 6 || all[2].LayerType() != layers.LayerTypeUDP || all[5].LayerType() != layers.LayerTypeUDP {
				t.Fatalf("%s, %s: reads as %v", e.name, c.name, p)
			}
			to := all[4].(gopacket.NetworkLayer).NetworkFlow().Dst().String()
			if _, variant0 := all[3].(layers.AGUEVar0); to != c.vip || variant0 == e.implicit {
				t.Errorf("%s, %s: reads as %v", e.name, c.name, p)
			}
		}
	}
}
