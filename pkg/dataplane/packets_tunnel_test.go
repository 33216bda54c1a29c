package dataplane

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// tunnelled is a way to encapsulate, with the ports of its services.
type tunnelled struct {
	name              string
	near, out, tagged uint16
}

func tunnels() []tunnelled {
	return []tunnelled{
		{"ipip in ipv4", portTunnel4, portOutTunnel4, portTaggedTunnel4},
		{"ipip in ipv6", portTunnel6, portOutTunnel6, portTaggedTunnel6},
		{"gue in ipv4", portGUE4, portOutGUE4, portTaggedGUE4},
		{"gue in ipv6", portGUE6, portOutGUE6, portTaggedGUE6},
	}
}

// tunnelRows are good packets to VIPs whose mode encapsulates.
func tunnelRows(l *lab, f family) []row {
	var rows []row
	for _, mode := range tunnels() {
		name, port := mode.name, mode.near
		s := l.at(f, port)
		ack := tcp{from: 40000, to: port, seq: 1001, ack: 77, flags: flagACK}
		data := ack
		data.data = text(501)
		synAck := ack
		synAck.flags = flagSYN | flagACK
		rows = append(rows,
			s.forwards(name+"/tcp syn", f.packet(tcp{from: 40000, to: port, flags: flagSYN})),
			s.forwards(name+"/tcp syn ack", f.packet(synAck)),
			s.forwards(name+"/tcp ack", f.packet(ack)),
			s.forwards(name+"/tcp data", f.packet(data)),
			s.forwards(name+"/udp", f.packet(udp{from: 20053, to: port, data: text(64)})),
			s.forwards(name+"/udp odd length", f.packet(udp{from: 20053, to: port, data: text(65)})),
			s.forwards(name+"/udp empty", f.packet(udp{from: 20053, to: port})),
		)
		rows = append(rows, fieldRows(l, f, port, name)...)
		rows = append(rows,
			l.at(f, mode.out).forwards(name+"/other interface tcp", f.packet(tcp{from: 9, to: mode.out, flags: flagSYN})),
			l.at(f, mode.out).forwards(name+"/other interface udp", f.packet(udp{from: 9, to: mode.out, data: text(9)})),
			l.at(f, mode.tagged).forwards(name+"/tagged tcp", f.packet(tcp{from: 9, to: mode.tagged, flags: flagSYN})),
		)
	}
	return rows
}

// variants are options other than the table's, all of which show outside.
func variants() map[string]Options {
	with := func(change func(*Options)) Options {
		o := testOptions()
		change(&o)
		return o
	}
	return map[string]Options{
		"checksum": with(func(o *Options) { o.GUEChecksum = true }),
		"port, sources of /24 and /120": with(func(o *Options) {
			o.GUEPort = otherGUEPort
			o.SourceIPv4, o.SourceIPv6 = netip.MustParsePrefix("10.9.8.0/24"), netip.MustParsePrefix("2001:db8:5::1200/120")
		}),
		"checksum, port, sources of /16 and /112": with(func(o *Options) {
			o.GUEPort, o.GUEChecksum = otherGUEPort, true
			o.SourceIPv4, o.SourceIPv6 = netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("2001:db8:5::/112")
		}),
		"checksum, sources of /21 and /118": with(func(o *Options) {
			o.GUEChecksum = true
			o.SourceIPv4, o.SourceIPv6 = netip.MustParsePrefix("10.9.8.0/21"), netip.MustParsePrefix("2001:db8:5::1c00/118")
		}),
	}
}

// newVariant is a lab with options, and paths that have the sources that go with them.
func newVariant(t *testing.T, options Options) *lab {
	l := newLabWith(t, options)
	for i := range l.services {
		s := &l.services[i]
		for _, prefix := range []netip.Prefix{options.SourceIPv4, options.SourceIPv6} {
			if prefix.IsValid() && s.path.Outer.IsValid() && s.path.Outer.Is4() == prefix.Addr().Is4() {
				s.path.Outer = prefix.Addr()
			}
		}
	}
	if err := l.do(func() error { return l.Apply(stateOf(l.services)) }); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestVariants sends what is encapsulated, and what concerns its size, through
// programs with other options.
func TestVariants(t *testing.T) {
	t.Parallel()
	for name, options := range variants() {
		t.Run(name, func(t *testing.T) {
			l := newVariant(t, options)
			for _, f := range families() {
				for _, topic := range []func(*lab, family) []row{
					tunnelRows, vlanRows, sizeRows, extensionRows, fragmentRows, eagerRows, icmpErrorRows, clampRows,
				} {
					for _, r := range topic(l, f) {
						if err := l.check(r); err != nil {
							t.Errorf("%s: %v", r.name, err)
						}
					}
				}
			}
			for _, port := range []uint16{portTunnel4, portTunnel6, portGUE4, portGUE6} {
				for _, f := range families() {
					l.spreads(t, l.at(f, port), options)
				}
			}
		})
	}
}

// outside is what encapsulation makes of packets: outer source addresses, and source
// ports of GUE, with how many flows have each.
type outside struct {
	sources map[netip.Addr]int
	ports   map[uint16]int
}

// sameTwice sends two packets of each of so many flows to a service, or two fragments
// of each of so many packets, wants both to look the same, and looks outside.
func (l *lab) sameTwice(t *testing.T, s service, many int, both func(i int) [2]packet) outside {
	o := outside{map[netip.Addr]int{}, map[uint16]int{}}
	for i := range many {
		var seen [2]packet
		for again, in := range both(i) {
			seen[again] = s.forwarded(in)
			_, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
			if err = errors.Join(err, checkBytes(out, seen[again].bytes()), wellFormed(out)); err != nil {
				t.Fatalf("flow %d: %v", i, err)
			}
		}
		if *seen[0].outer != *seen[1].outer || seen[0].gue != nil && *seen[0].gue != *seen[1].gue {
			t.Fatalf("flow %d does not look the same twice", i)
		}
		o.sources[seen[0].outer.source]++
		if seen[0].gue != nil {
			o.ports[seen[0].gue.from]++
		}
	}
	return o
}

// spreads wants a flow to have one look outside, and flows many, within what was
// configured; and the same of a packet's fragments and packets in fragments of one flow.
func (l *lab) spreads(t *testing.T, s service, options Options) {
	const many = 300
	o := l.sameTwice(t, s, many, func(i int) (both [2]packet) {
		for again := range both {
			both[again] = s.family.packet(udp{from: uint16(10000 + i), to: s.port, data: text((i + again*7) % 50)})
		}
		return both
	})
	o.check(t, s, options, many)
	whole := s.family.packet(udp{from: 10000, to: s.port, data: text(100)})
	o = l.sameTwice(t, s, many, func(i int) [2]packet {
		return [2]packet(split(whole, uint32(0x5eed0000+i), nil, 40))
	})
	o.check(t, s, options, many)
}

// check wants so many flows to look different outside.
func (o outside) check(t *testing.T, s service, options Options, flows int) {
	prefix := options.SourceIPv4
	if s.backend.Is6() {
		prefix = options.SourceIPv6
	}
	if !prefix.IsValid() && len(o.sources) != 1 {
		t.Errorf("port %d: %d sources, nothing was to be spread", s.port, len(o.sources))
	}
	if prefix.IsValid() && len(o.sources) < flows/2 {
		t.Errorf("port %d: %d sources of %d flows", s.port, len(o.sources), flows)
	}
	for source := range o.sources {
		if prefix.IsValid() && !prefix.Contains(source) {
			t.Errorf("port %d: source %s is not in %s", s.port, source, prefix)
		}
	}
	if s.mode == model.ModeDSRGUE && len(o.ports) < flows*9/10 {
		t.Errorf("port %d: %d source ports of %d flows", s.port, len(o.ports), flows)
	}
	for p := range o.ports {
		if p < 0xc000 {
			t.Errorf("source port %d is not a dynamic one", p)
		}
	}
}
