package dataplane

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// coarse is the packet path's clock, in its unit.
func coarse(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		t.Fatal(err)
	}
	return limitEpoch + uint64(now.Nano())*limitTime
}

// limitedLab is a lab whose VIPs all have some limits.
func limitedLab(t *testing.T, limits model.Limits) *lab {
	t.Helper()
	l := newLab(t)
	l.limit(t, func(v *model.VIP) { v.Limits = limits })
	return l
}

// limit changes the VIPs of the lab.
func (l *lab) limit(t *testing.T, change func(*model.VIP)) {
	t.Helper()
	state := stateOf(l.services)
	for i := range state.VIPs {
		change(&state.VIPs[i])
	}
	if err := l.do(func() error { return l.Apply(state) }); err != nil {
		t.Fatal(err)
	}
}

// slow lets one pass, and then none for longer than any test takes.
func slow() model.Limit { return model.Limit{Rate: 1, Burst: 1} }

// never is slow enough not to let another one pass during a test.
func (l *lab) never() {
	for i := range l.guards.elements {
		for kind := range l.guards.elements[i].Limit {
			if one := &l.guards.elements[i].Limit[kind]; one.Cost != 0 {
				one.Cost, one.Burst = one.Cost*3600, one.Burst*3600
			}
		}
	}
}

// TestLimits: what is beyond a limit ends for the limit's reason, and nothing else does.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limits model.Limits
		// reason of what is too much, and whether only openers are.
		reason      string
		connections bool
		source      bool
	}{
		"packets":            {model.Limits{Packets: slow()}, "drop_limit_packets", false, false},
		"connections":        {model.Limits{Connections: slow()}, "drop_limit_connections", true, false},
		"source packets":     {model.Limits{SourcePackets: slow()}, "drop_limit_source_packets", false, true},
		"source connections": {model.Limits{SourceConnections: slow()}, "drop_limit_source_connections", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := limitedLab(t, c.limits)
			l.never()
			var rows []row
			for _, f := range families() {
				for _, port := range []uint16{portL2, portTunnel4, portGUE6} {
					s := l.at(f, port)
					syn := f.packet(tcp{from: 4000, to: port, flags: flagSYN})
					ack := f.packet(tcp{from: 4000, to: port, flags: flagACK})
					other := from(syn, f.router())
					add := func(r row) {
						r.name = fmt.Sprintf("limits/%d: %s", len(rows), r.name)
						rows = append(rows, r)
					}
					passes := func(p packet) { add(s.forwards(name, p)) }
					drops := func(p packet) { add(s.counted(name, c.reason, p)) }
					passes(syn)
					drops(syn)
					if c.connections {
						passes(ack)
					} else {
						drops(ack)
					}
					if c.source {
						passes(other)
					}
					drops(other)
				}
			}
			for _, r := range rows {
				if err := l.check(r); err != nil {
					t.Errorf("%s: %v", r.name, err)
				}
			}
		})
	}
}

// TestLimitedParts: fragments and ICMP errors are packets of their VIP and of who sent
// them; pings are not.
func TestLimitedParts(t *testing.T) {
	for _, f := range families() {
		l := limitedLab(t, model.Limits{SourcePackets: model.Limit{Rate: 2, Burst: 2}})
		l.never()
		s := l.at(f, portL2)
		parts := split(f.packet(udp{from: 4001, to: portL2, data: text(200)}), 0x12340000, nil, 64, 128)
		about := f.reply(udp{from: portL2, to: 4001})
		error := f.reports(f.anyError(), about, 100)
		rows := []row{
			s.forwardsAs(model.UDP, hashOf(f.packet(udp{from: 4001, to: portL2, data: text(200)})), "first fragment", parts[0]),
			s.forwardsAs(model.UDP, 0, "second fragment", parts[1]),
			s.countedAs(model.UDP, "third fragment", "drop_limit_source_packets", parts[2]),
			// The router has a bucket of its own, whoever the error is about.
			s.reported("first", error, about), s.reported("second", error, about),
			s.countedAs(model.UDP, "third error", "drop_limit_source_packets", error),
		}
		for range 3 {
			ping := f.packet(f.echoRequest(1, 20))
			r := untouched(f, "ping", "tx_echo_reply", ping.bytes())
			r.out = answered(ping).bytes()
			rows = append(rows, r)
		}
		for _, r := range rows {
			if err := l.check(r); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		}
	}
}

// TestLimitedSources: as many bits of an address as the VIP says make a source.
func TestLimitedSources(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		one, other string
		bits4      uint8
		bits6      uint8
		same       bool
	}{
		{"203.0.113.7", "203.0.113.8", 0, 0, false},
		{"203.0.113.7", "203.0.113.8", 31, 0, false},
		{"203.0.113.7", "203.0.113.8", 24, 0, true},
		{"203.0.113.7", "203.0.112.8", 23, 0, true},
		{"203.0.113.7", "203.0.112.8", 24, 0, false},
		{"2001:db8:c::7", "2001:db8:c::8", 0, 0, true},
		{"2001:db8:c::7", "2001:db8:c:1::7", 0, 0, false},
		{"2001:db8:c::7", "2001:db8:c:1::7", 0, 48, true},
		{"2001:db8:c::7", "2001:db8:c::8", 0, 128, false},
		{"2001:db8:c::8", "2001:db8:c::9", 0, 127, true},
		// An IPv4 address is none of IPv6 with the same bits.
		{"203.0.113.7", "cb00:7107::", 0, 128, false},
	} {
		l.limit(t, func(v *model.VIP) {
			v.Limits = model.Limits{SourcePackets: slow(), IPv4Prefix: c.bits4, IPv6Prefix: c.bits6}
		})
		l.never()
		for at := range sourceLines(l.limits) {
			if err := l.maps.SourceBuckets.Put(at, lbSourceLine{}); err != nil {
				t.Fatal(err)
			}
		}
		for i, source := range []string{c.one, c.other} {
			a := netip.MustParseAddr(source)
			f := ipv4()
			if a.Is6() {
				f = ipv6()
			}
			s, p := l.at(f, portL2), from(f.packet(tcp{from: 4000, to: portL2, flags: flagACK}), a)
			r := s.forwards("source", p)
			if i == 1 && c.same {
				r = s.counted("source", "drop_limit_source_packets", p)
			}
			if err := l.check(r); err != nil {
				t.Errorf("%+v: %s: %v", c, source, err)
			}
		}
	}
}

// TestObservedLimits: a limit that observes drops nothing, and counts what it would.
func TestObservedLimits(t *testing.T) {
	watch := model.Limit{Rate: 1, Burst: 1, Observe: true}
	l := limitedLab(t, model.Limits{Packets: watch, Connections: watch, SourcePackets: watch, SourceConnections: watch})
	l.never()
	f := ipv4()
	s := l.at(f, portL2)
	for range 5 {
		if err := l.check(s.forwards("observed", f.packet(tcp{from: 4000, to: portL2, flags: flagSYN}))); err != nil {
			t.Fatal(err)
		}
	}
	c, err := l.Counters()
	if err != nil {
		t.Fatal(err)
	}
	observed := c.Observed[s.vip(model.TCP)]
	if len(observed) != 4 || observed[0].Name != "drop_limit_source_packets" || observed[3].Name != "drop_limit_connections" {
		t.Fatalf("observed %+v", observed)
	}
	for _, r := range observed {
		if r.Packets != 4 {
			t.Errorf("%s would have been the end of %d packets, want 4", r.Name, r.Packets)
		}
	}
	for _, r := range c.Dropped[s.vip(model.TCP)] {
		if r.Packets != 0 {
			t.Errorf("%d packets were dropped as %s", r.Packets, r.Name)
		}
	}
}

// TestLimitedQUIC: what opens a connection stands in the packet.
func TestLimitedQUIC(t *testing.T) {
	l := newLab(t)
	l.limit(t, func(v *model.VIP) {
		if v.QUIC = v.Protocol == model.UDP; v.QUIC {
			v.Limits.Connections = slow()
		}
	})
	l.never()
	f := ipv4()
	s := l.at(f, portL2)
	initial := f.packet(udp{from: 4000, to: portL2, data: append([]byte{0xc0, 0, 0, 0, 1, 8}, text(40)...)})
	short := f.packet(udp{from: 4000, to: portL2, data: append([]byte{0x40}, text(40)...)})
	opens := s.forwards("first", initial)
	opens.opener = true
	for _, r := range []row{opens, s.counted("second", "drop_limit_connections", initial), s.forwards("short", short), s.forwards("short", short)} {
		if err := l.check(r); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// TestTokenTwins has the packet path and Go take tokens from the same buckets. The clock
// goes on in between, so Go does it with the time before and the time after.
func TestTokenTwins(t *testing.T) {
	l := limitedLab(t, model.Limits{Packets: slow()})
	f := ipv4()
	id := l.applied.vips[l.at(f, portL2).vip(model.TCP)].id
	in := f.packet(tcp{from: 4000, to: portL2, flags: flagACK}).bytes()
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 3000 {
		one := lbLimit{Cost: 1 + r.Uint64N(1<<r.IntN(44)), Burst: r.Uint64N(1 << r.IntN(44))}
		one.Burst = max(one.Burst, one.Cost)
		l.guards.elements[id].Limit[lbLimitedLIMITED_PACKETS] = one
		before := coarse(t)
		empty := before - r.Uint64N(1<<r.IntN(44))
		if err := l.maps.VipBuckets.Put(id, lbVipBuckets{Empty: [2]uint64{empty, 7}}); err != nil {
			t.Fatal(err)
		}
		verdict, _, err := l.run(ebpf.RunOptions{Data: in})
		if err != nil {
			t.Fatal(err)
		}
		after := coarse(t)
		var b lbVipBuckets
		if err := l.maps.VipBuckets.Lookup(id, &b); err != nil {
			t.Fatal(err)
		}
		early, late := takeToken(empty, before, one), takeToken(empty, after, one)
		switch {
		case b.Empty[1] != 7:
			t.Fatal("the bucket of connections has changed")
		case verdict == xdpTX:
			taken++
			if late == 0 || b.Empty[0] < early || b.Empty[0] > late {
				t.Fatalf("%+v, empty %d: %d, want %d to %d", one, empty, b.Empty[0], early, late)
			}
		case early != 0 || b.Empty[0] != empty:
			t.Fatalf("%+v, empty %d: no token, want %d to %d; the bucket is %d", one, empty, early, late, b.Empty[0])
		}
	}
	if taken < 300 || taken > 2700 {
		t.Errorf("%d of 3000 tokens were taken: the test shows little", taken)
	}
}

// TestLimitIsShared: however many CPUs take tokens at once, there are no more of them.
func TestLimitIsShared(t *testing.T) {
	const burst, senders, packets = 5000, 4, 4000
	for name, limits := range map[string]model.Limits{
		"VIP":    {Packets: model.Limit{Rate: 1, Burst: burst}},
		"source": {SourcePackets: model.Limit{Rate: 1, Burst: burst}},
	} {
		t.Run(name, func(t *testing.T) {
			l := limitedLab(t, limits)
			l.never()
			f := ipv4()
			in := f.packet(tcp{from: 4000, to: portL2, flags: flagACK}).bytes()
			var passed atomic.Uint64
			var all sync.WaitGroup
			for range senders {
				all.Go(func() {
					for range packets {
						verdict, _, err := send(l.Plane, in)
						if err != nil {
							t.Error(err)
							return
						}
						if verdict == xdpTX {
							passed.Add(1)
						}
					}
				})
			}
			all.Wait()
			// A source's first packets may come before it has a bucket.
			if n := passed.Load(); n < burst || n > burst && (name == "VIP" || n > burst+senders) {
				t.Errorf("%d of %d packets passed, want %d", n, senders*packets, burst)
			}
		})
	}
}

// TestSourcesAreBounded: sources that there is no room for begin anew, which is counted,
// and those of another VIP are not dropped for it.
func TestSourcesAreBounded(t *testing.T) {
	limits := withRoom(smallLimits())
	limits.Sources = 64
	p := loaded(t, limits)
	f := ipv4()
	pool := settledPool("pool", 251, f.host(1, 1))
	applyTo(t, p, forwarding.State{
		Pools: []forwarding.Pool{pool},
		VIPs: []model.VIP{
			{Name: "flooded", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(f.vip, 80), Limits: model.Limits{SourceConnections: model.Limit{Rate: 5, Burst: 5}}},
			{Name: "neighbour", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(f.vip, 81), Limits: model.Limits{SourceConnections: model.Limit{Rate: 100, Burst: 100}}},
		},
		Paths: map[netip.Addr]forwarding.Path{f.host(1, 1): {Link: loopback, OnLink: true, MTU: mtu}},
	})
	syn := f.packet(tcp{from: 4000, to: 80, flags: flagSYN})
	friend := f.packet(tcp{from: 4000, to: 81, flags: flagSYN}).bytes()
	for i := range 20_000 {
		syn.source = netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
		if _, _, err := send(p, syn.bytes()); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			expectVerdict(t, p, friend, xdpTX)
		}
	}
	c, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if c.Forgotten["flooded"] < 10_000 {
		t.Errorf("%d sources were forgotten", c.Forgotten["flooded"])
	}
	t.Logf("forgotten: %v", c.Forgotten)
}
