package dataplane

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
)

// takeWholePath has every packet go the way of those that are not plain, from the beginning.
func (p *Plane) takeWholePath(t *testing.T) {
	t.Helper()
	swap := func() {
		p.program, p.parts[lbPartPART_NOT_PLAIN] = p.parts[lbPartPART_NOT_PLAIN], p.program
	}
	swap()
	t.Cleanup(swap)
}

// TestPacketsTheWholePath sends every row of the packet tables the way of packets that are not
// plain: those that are must fare the same there.
func TestPacketsTheWholePath(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.takeWholePath(t)
	for _, r := range l.rows() {
		if err := l.check(r); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// TestNATPacketsTheWholePath is the same of VIPs that translate.
func TestNATPacketsTheWholePath(t *testing.T) {
	t.Parallel()
	rows, labs := natRows(t)
	taken := map[*natTable]bool{}
	for i, r := range rows {
		if !taken[labs[i]] {
			taken[labs[i]] = true
			labs[i].takeWholePath(t)
		}
		if err := labs[i].check(r); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// TestPlainPackets has no program for packets that are not plain: those that are need none,
// all others are dropped.
func TestPlainPackets(t *testing.T) {
	l := newLab(t)
	if err := l.maps.Parts.Delete(uint32(lbPartPART_NOT_PLAIN)); err != nil {
		t.Fatal(err)
	}
	expect := func(name string, frame []byte, reason string) {
		t.Helper()
		before := l.count(t, reason)
		if _, _, err := l.run(ebpf.RunOptions{Data: frame}); err != nil {
			t.Fatal(err)
		}
		if l.count(t, reason) != before+1 {
			t.Errorf("%s: not counted as %s", name, reason)
		}
	}
	for _, f := range families() {
		for name, carried := range map[string]payload{
			"TCP": tcp{from: 40000, to: portTunnel4, flags: flagACK}, "SYN": tcp{from: 40000, to: portTunnel4, flags: flagSYN},
			"UDP": udp{from: 40000, to: portTunnel4, data: text(100)},
		} {
			for tags := range 3 {
				p := f.packet(carried)
				p.tags = []tag{{etherQinQ, 1}, {etherVLAN, 2}}[:tags]
				expect(fmt.Sprintf("%s, %s, %d tags", f.name, name, tags), p.bytes(), "tx_forwarded")
			}
		}
		whole := f.packet(tcp{from: 40000, to: portTunnel4, flags: flagACK})
		frame := whole.bytes()
		hops := whole.l3() + 8
		if f.name == ipv6().name {
			hops = whole.l3() + 7
		}
		expect(f.name+", last hop", set(frame, hops, 1), "drop_internal")
		expect(f.name+", cut off", frame[:len(frame)-1], "drop_internal")
		expect(f.name+", header of TCP too long", set(frame, whole.l4()+12, 0xf0), "drop_internal")
		expect(f.name+", header of TCP too short", set(frame, whole.l4()+12, 0x40), "drop_internal")
		expect(f.name+", ICMP", f.packet(f.echoRequest(1, 8)).bytes(), "drop_internal")
	}
	expect("ARP", set(ipv4().packet(udp{from: 1, to: 2}).bytes(), 12, 0x08, 0x06), "pass_not_ip")
}
