package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const flagURG = 0x20

// validFlags are the combinations that Linux's connection tracking takes for valid;
// PSH, ECE and CWR may come with any of them.
func validFlags() map[uint8]bool {
	return map[uint8]bool{
		flagSYN: true, flagSYN | flagURG: true, flagSYN | flagACK: true,
		flagRST: true, flagRST | flagACK: true,
		flagFIN | flagACK: true, flagFIN | flagACK | flagURG: true,
		flagACK: true, flagACK | flagURG: true,
	}
}

func validCombination(flags uint8) bool { return validFlags()[flags&0x3f&^flagPSH] }

// bogusSources are addresses that no packet may come from, and their neighbours that
// packets may.
func (f family) bogusSources() (bogus, good []string) {
	if f.ipv6 {
		return []string{"::", "::1", "ff02::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::ffff:0.0.0.0", "::ffff:192.0.2.1"},
			[]string{"::2", "::1:0:0", "0:0:0:1::", "::fffe:c000:201", "feff::", "fe80::1", "fd00::1", "::1:ffff:c000:201"}
	}
	return []string{"0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255"},
		[]string{"1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255", "10.0.0.1", "169.254.0.1"}
}

// screenRows are packets that no host sends, and those next to them.
func screenRows(l *lab, f family) []row {
	rows := flagRows(l, f)
	bogus, good := f.bogusSources()
	for _, source := range bogus {
		rows = append(rows, sourceRows(l, f, netip.MustParseAddr(source), "drop_bogus_source")...)
	}
	for _, source := range good {
		p := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN})
		p.source = netip.MustParseAddr(source)
		r := l.at(f, portL2).forwards("screen/from "+source, p)
		r.rough = true
		rows = append(rows, r)
	}
	return append(rows, sourceRows(l, f, f.vip, "drop_land")...)
}

// flagRows are all combinations of flags, to a VIP and to somebody else.
func flagRows(l *lab, f family) []row {
	var rows []row
	for flags := range 256 {
		p := f.packet(tcp{from: 4000, to: portL2, flags: uint8(flags)})
		name := fmt.Sprintf("screen/flags %#02x", flags)
		if validCombination(uint8(flags)) {
			rows = append(rows, l.at(f, portL2).forwards(name, p))
			continue
		}
		r := l.at(f, portL2).countedAs(model.TCP, name, "drop_tcp_flags", p)
		r.opener = flags&(flagSYN|flagACK) == flagSYN
		rows = append(rows, r)
		p.destination = f.foreign
		rows = append(rows, untouched(f, name+", foreign", "pass_not_vip", p.bytes()))
	}
	first := split(f.packet(tcp{from: 4000, to: portL2, data: text(100)}), 0x5eed0000, nil, 64)[0]
	r := l.at(f, portL2).countedAs(model.TCP, "screen/no flags, first fragment", "drop_tcp_flags", first)
	return append(rows, r)
}

// sourceRows are packets of all kinds from an address that is dropped for a reason.
func sourceRows(l *lab, f family, source netip.Addr, reason string) []row {
	var rows []row
	from := func(p packet) packet {
		p.source = source
		return p
	}
	name := func(kind string) string { return fmt.Sprintf("screen/%s from %s", kind, source) }
	counted := func(protocol model.Protocol, kind string, p packet) {
		r := l.at(f, portL2).countedAs(protocol, name(kind), reason, from(p))
		r.rough = true
		rows = append(rows, r)
	}
	ping := f.packet(f.echoRequest(1, 10))
	segment, datagram := f.packet(tcp{from: 4000, to: portL2, flags: flagACK}), f.packet(udp{from: 4000, to: portL2})
	counted(model.TCP, "tcp", segment)
	counted(model.UDP, "udp", datagram)
	counted(model.UDP, "first fragment", split(f.packet(udp{from: 4000, to: portL2, data: text(100)}), 0x5eed0001, nil, 64)[0])
	counted(model.TCP, "icmp error", f.reports(f.anyError(), f.reply(tcp{from: portL2, to: 4000, flags: flagACK}), 100))
	rows = append(rows, malformed(f, name("ping"), reason, from(ping).bytes()))
	other := f.packet(tcp{from: 4000, to: portNone, flags: flagSYN})
	rows = append(rows, malformed(f, name("port that no VIP serves"), "pass_not_vip", from(other).bytes()))
	segment.destination, ping.destination = f.foreign, f.foreign
	return append(rows,
		malformed(f, name("foreign tcp"), "pass_not_vip", from(segment).bytes()),
		malformed(f, name("foreign ping"), "pass_not_vip", from(ping).bytes()))
}

// TestScreening sends the rows through a program that screens.
func TestScreening(t *testing.T) {
	options := testOptions()
	options.Screening = true
	l := newLabWith(t, options)
	reached := map[string]bool{}
	for _, f := range families() {
		for _, r := range screenRows(l, f) {
			reached[r.reason] = true
			t.Run(r.name, func(t *testing.T) {
				if err := l.check(r); err != nil {
					t.Error(err)
				}
			})
		}
	}
	for _, reason := range []string{"drop_tcp_flags", "drop_land", "drop_bogus_source"} {
		if !reached[reason] {
			t.Errorf("no row ends as %s", reason)
		}
	}
}

// TestScreeningOff is the control: without screening the same packets are forwarded.
func TestScreeningOff(t *testing.T) {
	l := newLab(t)
	for _, f := range families() {
		bogus, _ := f.bogusSources()
		none := f.packet(tcp{from: 4000, to: portL2})
		land := f.packet(tcp{from: 4000, to: portL2, flags: flagSYN})
		land.source = f.vip
		bad := land
		bad.source = netip.MustParseAddr(bogus[0])
		for name, p := range map[string]packet{"no flags": none, "land": land, "bogus": bad} {
			r := l.at(f, portL2).forwards("screening off/"+name, p)
			r.rough = true
			if err := l.check(r); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		}
	}
}
