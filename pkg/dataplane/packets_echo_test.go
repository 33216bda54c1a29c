package dataplane

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// ICMP types (RFC 792, RFC 4443).
const (
	echoReply4, echoRequest4 = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

func (f family) echoRequest(id uint16, length int) icmp {
	m := icmp{kind: echoRequest4, id: id, seq: 2, data: text(length)}
	if f.ipv6 {
		m.kind = echoRequest6
	}
	return m
}

// answered is the reply to an echo request.
func answered(in packet) packet {
	reply := in.payload.(icmp)
	reply.kind = echoReply4
	if in.ipv6() {
		reply.kind = echoReply6
	}
	in.payload = reply
	return turned(in)
}

// turned is a packet with its addresses exchanged and a TTL of the balancer's own.
func turned(in packet) packet {
	in.to, in.from = in.from, in.to
	in.source, in.destination = in.destination, in.source
	in.ttl = 64
	return in
}

// echoRows are ICMP messages to the address of a VIP.
func echoRows(_ *lab, f family) []row {
	var rows []row
	add := func(name string, length int, change func(*packet)) {
		in := f.packet(f.echoRequest(0x1234, length))
		change(&in)
		r := untouched(f, "echo/"+name, "tx_echo_reply", in.bytes())
		r.out = answered(in).bytes()
		rows = append(rows, r)
	}
	same := func(*packet) {}
	add("no data", 0, same)
	add("1 byte", 1, same)
	add("56 bytes", 56, same)
	add("57 bytes", 57, same)
	add("1472 bytes", 1472, same)
	add("several buffers", 6001, same)
	add("padding", 0, func(p *packet) { p.padding = 18 })
	add("ttl 1", 56, func(p *packet) { p.ttl = 1 })
	add("ttl 255", 56, func(p *packet) { p.ttl = 255 })
	add("tos", 56, func(p *packet) { p.tos = 0xb8 })
	add("any-port VIP", 56, func(p *packet) { p.destination = f.wide })
	add("code", 56, func(p *packet) {
		m := p.payload.(icmp)
		m.code = 9
		p.payload = m
	})
	add("nothing but zeroes", 0, func(p *packet) {
		p.payload = icmp{kind: p.payload.(icmp).kind, data: make([]byte, 20)}
	})
	for name, tags := range tagStacks() {
		add(name, 56, func(p *packet) { p.tags = tags })
	}
	if f.ipv6 {
		add("extension headers", 56, func(p *packet) { p.extensions = []extension{hopByHop(1), destinationOptions(3)} })
		add("atomic fragment", 56, func(p *packet) { p.extensions = []extension{fragmentHeader(0, false)} })
		add("flow label", 56, func(p *packet) { p.label = 0x12345 })
	} else {
		add("options", 56, func(p *packet) { p.options = recordRoute() })
		add("identification", 56, func(p *packet) { p.id, p.fragment = 0xffff, 0x4000 })
	}
	return append(rows, otherICMPRows(f)...)
}

// otherICMPRows are ICMP messages to a VIP that the balancer does not answer.
func otherICMPRows(f family) []row {
	kinds := map[string]uint8{"echo reply": 0, "source quench": 4, "redirect": 5, "timestamp": 13, "photuris": 40, "echo of ipv6": 128}
	if f.ipv6 {
		kinds = map[string]uint8{
			"reserved error": 0, "unknown error": 5, "last error": 127, "echo reply": 129, "router advertisement": 134,
			"neighbour solicitation": 135, "redirect": 137, "echo of ipv4": 8,
		}
	}
	var rows []row
	for name, kind := range kinds {
		r := untouched(f, "icmp/"+name, "pass_not_vip", f.packet(icmp{kind: kind, data: text(64)}).bytes())
		r.rough = f.ipv6 // what these carry is not what they are called
		rows = append(rows, r)
	}
	short := raw{f.echoRequest(0, 0).protocol(f.ipv6), f.echoRequest(0, 0).bytes(f.client, f.vip)[:7]}
	empty := raw{short.number, nil}
	foreign := f.foreignPacket(short)
	return append(rows,
		malformed(f, "icmp/cut off", "drop_malformed", f.packet(short).bytes()),
		malformed(f, "icmp/empty", "drop_malformed", f.packet(empty).bytes()),
		malformed(f, "icmp/foreign cut off", "pass_not_vip", foreign.bytes()),
	)
}

// TestEchoOfEveryIdentifier has every identifier answered: an incremental
// checksum that loses a carry is wrong for a few of them only.
func TestEchoOfEveryIdentifier(t *testing.T) {
	p := loaded(t, smallLimits())
	applyTo(t, p, stateOf(services(loopback)))
	for _, f := range families() {
		in := f.packet(f.echoRequest(0, 8))
		for id := range 1 << 16 {
			in.payload = f.echoRequest(uint16(id), 8)
			_, out, err := send(p, in.bytes())
			if err != nil {
				t.Fatal(err)
			}
			if want := answered(in).bytes(); !bytes.Equal(out, want) {
				t.Fatalf("%s: identifier %#x: %v", f.name, id, checkBytes(out, want))
			}
		}
	}
}

// TestTTLOfEveryChecksum sends every value of the IPv4 header's checksum through
// the step that adjusts it.
func TestTTLOfEveryChecksum(t *testing.T) {
	p := loaded(t, smallLimits())
	applyTo(t, p, stateOf(services(loopback)))
	in := ipv4().packet(udp{from: 1, to: portL2, data: text(20)})
	seen := make(map[uint16]bool, 1<<16)
	for id := range 1 << 16 {
		in.id = uint16(id)
		frame := in.bytes()
		if at := in.l3() + 10; binary.BigEndian.Uint16(frame[at:]) == 0 {
			// The other zero, as a router on the way may have left it.
			frame = set(frame, at, 0xff, 0xff)
		}
		_, out, err := send(p, frame)
		if err != nil {
			t.Fatal(err)
		}
		header := out[headerEthernet : headerEthernet+headerIPv4]
		if onesSum(header) != 0xffff || header[8] != in.ttl-1 {
			t.Fatalf("identification %#x: bad header\n%s", id, dump(header))
		}
		seen[binary.BigEndian.Uint16(header[10:])] = true
	}
	if len(seen) < 1<<16-1 {
		t.Errorf("%d different checksums, all but one expected", len(seen))
	}
}

// TestChecksumControl shows that a carry lost in any of these checksums would
// have been seen: one in every so many identifiers needs it.
func TestChecksumControl(t *testing.T) {
	lost := 0
	for id := range 1 << 16 {
		in := ipv4().packet(ipv4().echoRequest(uint16(id), 8))
		check := binary.BigEndian.Uint16(in.bytes()[in.l4()+2:])
		// The new checksum is the old one plus what the type lost, without the carry.
		if check+echoRequest4<<8 != binary.BigEndian.Uint16(answered(in).bytes()[in.l4()+2:]) {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no identifier needs a carry")
	}
	t.Logf("%d identifiers need a carry", lost)
}
