package dataplane

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Sources of the guard's rows; the client is on the list of good ones, and so is bad.
func (f family) bad() netip.Addr   { return f.beside(0x66) }
func (f family) worse() netip.Addr { return f.beside(0x77) }

// beside is the client with another last byte.
func (f family) beside(last byte) netip.Addr {
	b := f.client.AsSlice()
	b[len(b)-1] = last
	a, _ := netip.AddrFromSlice(b)
	return a
}

// stranger is on no list.
func (f family) stranger() netip.Addr { return f.router() }

// guardedLab has services that deny the bad, allow the good, or both; and, if node
// says so, lists that hold for all.
func guardedLab(t *testing.T, node model.NodeSources) *lab {
	t.Helper()
	l := newLab(t)
	state := stateOf(l.services)
	for i := range state.VIPs {
		v := &state.VIPs[i]
		switch port := v.Endpoints[0].Ports; {
		case v.Endpoints[0].Address == ipv4().eager || v.Endpoints[0].Address == ipv6().eager:
			v.Sources = model.Sources{Deny: "bad"}
		case port == model.Port(portL2):
			v.Sources = model.Sources{Deny: "bad"}
		case port == model.Port(portTunnel4):
			v.Sources = model.Sources{Allow: "good"}
		case port == model.Port(portTunnel6):
			v.Sources = model.Sources{Deny: "bad", Allow: "good"}
		}
	}
	both := func(name string, address func(family) netip.Addr, bits4, bits6 int) model.SourceList {
		p4, _ := address(ipv4()).Prefix(bits4)
		p6, _ := address(ipv6()).Prefix(bits6)
		return newList(t, name, []netip.Prefix{p4, p6})
	}
	state.SourceLists = []model.SourceList{
		both("bad", family.bad, 32, 128), both("good", func(f family) netip.Addr { return f.client }, 24, 64), both("worse", family.worse, 31, 127),
		both("martians", family.stranger, 20, 44),
	}
	state.Sources = node
	if err := l.do(func() error { return l.Apply(state) }); err != nil {
		t.Fatal(err)
	}
	return l
}

func from(p packet, source netip.Addr) packet {
	p.source = source
	return p
}

// guardRows are packets that guards of VIPs of their own let pass or not.
func guardRows(l *lab, f family) []row {
	deny, allow, both, none := l.at(f, portL2), l.at(f, portTunnel4), l.at(f, portTunnel6), l.at(f, portGUE4)
	var rows []row
	for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
		to := func(s service, source netip.Addr) packet {
			if protocol == model.UDP {
				return from(f.packet(udp{from: 4000, to: s.port, data: text(9)}), source)
			}
			return from(f.packet(tcp{from: 4000, to: s.port, flags: flagSYN}), source)
		}
		passes := func(s service, name string, source netip.Addr) {
			rows = append(rows, s.forwards("guard/"+protocol.String()+"/"+name, to(s, source)))
		}
		drops := func(s service, name, reason string, source netip.Addr) {
			rows = append(rows, s.counted("guard/"+protocol.String()+"/"+name, reason, to(s, source)))
		}
		passes(deny, "deny: client", f.client)
		passes(deny, "deny: stranger", f.stranger())
		drops(deny, "deny: bad", "drop_denied", f.bad())
		passes(allow, "allow: client", f.client)
		passes(allow, "allow: bad, which is among the good", f.bad())
		drops(allow, "allow: stranger", "drop_not_allowed", f.stranger())
		passes(both, "both: client", f.client)
		drops(both, "both: bad", "drop_denied", f.bad())
		drops(both, "both: stranger", "drop_not_allowed", f.stranger())
		passes(none, "none: bad", f.bad())
		passes(none, "none: stranger", f.stranger())
	}
	rows = append(rows, guardedPartRows(l, f)...)
	return append(rows, guardedAddressRows(f)...)
}

// guardedPartRows are fragments and ICMP errors.
func guardedPartRows(l *lab, f family) []row {
	deny, allow := l.at(f, portL2), l.at(f, portTunnel4)
	parts := split(from(f.packet(udp{from: 4001, to: portL2, data: text(100)}), f.bad()), 0x77000000, nil, 64)
	rows := []row{
		deny.countedAs(model.UDP, "guard/first fragment", "drop_denied", parts[0]),
		untouched(f, "guard/later fragment of a denied one", "drop_fragment_early", parts[1].bytes()),
	}
	error := func(s service, name, reason string, sender, client netip.Addr) {
		about := f.reply(tcp{from: s.port, to: 4000, flags: flagACK})
		about.destination = client
		in := from(f.reports(f.anyError(), about, 100), sender)
		if reason == "" {
			rows = append(rows, s.reported("guard/"+name, in, about))
			return
		}
		rows = append(rows, s.countedAs(model.TCP, "guard/"+name, reason, in))
	}
	error(deny, "error about the client", "", f.stranger(), f.client)
	error(deny, "error about the bad", "drop_denied", f.stranger(), f.bad())
	error(deny, "error from the bad", "drop_denied", f.bad(), f.client)
	// Routers on the way to an allowed client are on no list.
	error(allow, "error about the allowed", "", f.stranger(), f.client)
	error(allow, "error about a stranger", "drop_not_allowed", f.client, f.stranger())
	return rows
}

// guardedAddressRows are pings, and what is for no port that is served.
func guardedAddressRows(f family) []row {
	var rows []row
	ping := func(name, reason string, to, source netip.Addr) {
		in := from(f.packet(f.echoRequest(7, 20)), source)
		in.destination = to
		r := untouched(f, "guard/"+name, reason, in.bytes())
		if reason == "tx_echo_reply" {
			r.out = answered(in).bytes()
		}
		rows = append(rows, r)
	}
	ping("ping from the bad, where VIPs differ", "tx_echo_reply", f.vip, f.bad())
	ping("ping from the bad, where VIPs agree", "drop_denied", f.eager, f.bad())
	ping("ping from a stranger, where VIPs agree", "tx_echo_reply", f.eager, f.stranger())
	other := from(f.packet(tcp{from: 1, to: portNone, flags: flagSYN}), f.bad())
	rows = append(rows, untouched(f, "guard/unserved port, where VIPs differ", "pass_not_vip", other.bytes()))
	other.destination = f.eager
	rows = append(rows, untouched(f, "guard/unserved port, where VIPs agree", "drop_denied", other.bytes()))
	other.destination = f.foreign
	rows = append(rows, untouched(f, "guard/foreign", "pass_not_vip", other.bytes()))
	return rows
}

// nodeGuardRows meet lists that hold for all: worse is denied, martians are bogus.
func nodeGuardRows(l *lab, f family) []row {
	var rows []row
	for _, port := range []uint16{portL2, portTunnel4, portGUE4} {
		s := l.at(f, port)
		syn := f.packet(tcp{from: 4000, to: port, flags: flagSYN})
		rows = append(rows,
			s.counted("guard of all/worse to "+s.pool(), "drop_denied", from(syn, f.worse())),
			s.counted("guard of all/martian to "+s.pool(), "drop_bogus_source", from(syn, f.stranger())),
			s.forwards("guard of all/client to "+s.pool(), syn))
	}
	ping := from(f.packet(f.echoRequest(7, 20)), f.worse())
	other := from(f.packet(tcp{from: 1, to: portNone, flags: flagSYN}), f.worse())
	sctp := from(f.packet(raw{132, text(40)}), f.worse())
	foreign := other
	foreign.destination = f.foreign
	return append(rows,
		untouched(f, "guard of all/ping", "drop_denied", ping.bytes()),
		untouched(f, "guard of all/unserved port", "drop_denied", other.bytes()),
		malformed(f, "guard of all/unserved protocol", "pass_not_vip", sctp.bytes()),
		untouched(f, "guard of all/foreign", "pass_not_vip", foreign.bytes()))
}

// TestGuard sends the rows through a program whose VIPs have guards.
func TestGuard(t *testing.T) {
	for name, c := range map[string]struct {
		node model.NodeSources
		rows func(*lab, family) []row
	}{
		"own": {model.NodeSources{}, guardRows},
		"all": {model.NodeSources{Sources: model.Sources{Deny: "worse"}, Bogus: "martians"}, nodeGuardRows},
		"allow": {model.NodeSources{Sources: model.Sources{Allow: "good"}}, func(l *lab, f family) []row {
			s, syn := l.at(f, portGUE4), f.packet(tcp{from: 4000, to: portGUE4, flags: flagSYN})
			return []row{s.forwards("good", syn), s.counted("stranger", "drop_not_allowed", from(syn, f.stranger()))}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := guardedLab(t, c.node)
			for _, f := range families() {
				for _, r := range c.rows(l, f) {
					if err := l.check(r); err != nil {
						t.Errorf("%s: %v", r.name, err)
					}
				}
			}
		})
	}
}

// TestGuardCounts: each VIP tells what its guard has dropped, a new one from zero on.
func TestGuardCounts(t *testing.T) {
	l := guardedLab(t, model.NodeSources{})
	f := ipv4()
	s := l.at(f, portL2)
	for range 3 {
		if err := l.check(s.counted("bad", "drop_denied", from(f.packet(tcp{from: 4000, to: portL2, flags: flagSYN}), f.bad()))); err != nil {
			t.Fatal(err)
		}
	}
	c, err := l.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for name, dropped := range c.Dropped {
		for _, r := range dropped {
			want := uint64(0)
			if name == s.vip(model.TCP) && r.Name == "drop_denied" {
				want = 3
			}
			if r.Packets != want {
				t.Errorf("VIP %s: %s counts %d, want %d", name, r.Name, r.Packets, want)
			}
		}
	}
}

// TestSourceListsComeAndGo: what nothing names any more leaves the map, and too many
// are refused.
func TestSourceListsComeAndGo(t *testing.T) {
	p := loaded(t, smallLimits())
	state := forwarding.State{
		Pools:       []forwarding.Pool{settledPool("pool", 251)},
		VIPs:        []model.VIP{{Name: "vip", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(ipv4().vip, 80)}},
		SourceLists: []model.SourceList{listOf(t, "a", "192.0.2.0/24"), listOf(t, "b", "2001:db8::/32"), listOf(t, "unused", "10.0.0.0/8")},
	}
	apply := func() {
		t.Helper()
		state.VIPs = slices.Clone(state.VIPs) // what was applied is not written to
		applyTo(t, p, state)
	}
	expect := func(when string, wantFlag bool, names ...string) {
		t.Helper()
		var numbers []uint32
		for number := range sourceListNumbers(p.limits) {
			var id uint32
			if p.maps.SourceLists.Lookup(number, &id) == nil {
				numbers = append(numbers, number)
			}
		}
		var known []uint32
		for _, name := range names {
			known = append(known, p.lists.lists[name].number)
		}
		slices.Sort(known)
		if !slices.Equal(numbers, known) || slices.Contains(known, 0) {
			t.Errorf("%s: the map has lists %v, want %v for %v", when, numbers, known, names)
		}
		flagged := p.vipByID[0].entry().Flags&uint16(lbVipFlagVIP_GUARDED) != 0
		if flagged != wantFlag || (p.guards.elements[0] != lbGuard{}) != wantFlag {
			t.Errorf("%s: the VIP is guarded: %t, by %+v", when, flagged, p.guards.elements[0])
		}
	}
	apply()
	expect("none", false)
	state.VIPs[0].Sources.Deny = "a"
	apply()
	expect("a", true, "a")
	state.VIPs[0].Sources = model.Sources{Deny: "b", Allow: "a"}
	apply()
	expect("both", true, "a", "b")
	state.VIPs[0].Sources, state.Sources.Bogus = model.Sources{}, "b"
	apply()
	expect("node", true, "b")
	state.Sources.Bogus = ""
	apply()
	expect("none again", false)
	state.VIPs[0].Sources.Deny = "c"
	if err := p.Check(state); err == nil {
		t.Error("a list that is not there is not missed")
	}
	p.limits.SourceLists = 1
	state.VIPs[0].Sources = model.Sources{Deny: "b", Allow: "a"}
	if err := p.Check(state); err == nil {
		t.Error("two lists fit where there is room for one")
	}
}

// replacement is traffic of a source that is denied and of one that is allowed, while
// their lists are replaced.
type replacement struct {
	*Plane
	t           *testing.T
	versions    [2]forwarding.State
	passed, cut atomic.Uint64
	sent        atomic.Uint64
}

func newReplacement(t *testing.T) *replacement {
	r := &replacement{t: t, Plane: loaded(t, smallLimits())}
	f := ipv4()
	pool := settledPool("pool", 251, f.host(1, 1))
	for i := range r.versions {
		// Everything else on the lists is another each time.
		var rest []netip.Prefix
		for n := range 3000 {
			a := netip.AddrFrom4([4]byte{byte(10 + i), byte(n >> 8), byte(n), 0})
			rest = append(rest, netip.PrefixFrom(a, 24))
		}
		r.versions[i] = forwarding.State{
			Pools: []forwarding.Pool{pool},
			VIPs: []model.VIP{
				{Name: "allow", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(f.vip, 81), Sources: model.Sources{Allow: "good"}},
				{Name: "deny", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(f.vip, 80), Sources: model.Sources{Deny: "bad"}},
			},
			Paths: map[netip.Addr]forwarding.Path{f.host(1, 1): {Link: loopback, OnLink: true, MTU: mtu}},
			SourceLists: []model.SourceList{
				newList(t, "bad", append(slices.Clone(rest), netip.PrefixFrom(f.bad(), 32))),
				newList(t, "good", append(slices.Clone(rest), netip.PrefixFrom(f.client, 32))),
			},
		}
	}
	applyTo(t, r.Plane, r.versions[0])
	return r
}

// run has packets sent while replace is called, until that is enough.
func (r *replacement) run(enough func(times int) bool, replace func(version int)) {
	f := ipv4()
	denied := from(f.packet(tcp{from: 4000, to: 80, flags: flagSYN}), f.bad()).bytes()
	allowed := f.packet(tcp{from: 4000, to: 81, flags: flagSYN}).bytes()
	done := make(chan struct{})
	var senders sync.WaitGroup
	for range 2 {
		senders.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				r.send(denied, &r.passed, xdpDrop)
				r.send(allowed, &r.cut, xdpTX)
			}
		})
	}
	for i := 0; !enough(i); i++ {
		replace(i % 2)
	}
	close(done)
	senders.Wait()
}

// send counts a packet that does not end as it should.
func (r *replacement) send(frame []byte, wrong *atomic.Uint64, want uint32) {
	verdict, err := r.Program().Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)})
	if err != nil {
		r.t.Error(err)
	}
	if verdict != want {
		wrong.Add(1)
	}
	r.sent.Add(1)
}

// TestReplaceSourceLists: whatever else is on them, who is denied stays so at every
// moment, and so does who is allowed.
func TestReplaceSourceLists(t *testing.T) {
	r := newReplacement(t)
	enough := func(times int) bool { return times >= 30 && r.sent.Load() > 3000 }
	r.run(enough, func(version int) { applyTo(t, r.Plane, r.versions[1-version]) })
	if r.passed.Load() != 0 || r.cut.Load() != 0 {
		t.Errorf("of %d packets %d of a denied source passed, and %d of an allowed one did not", r.sent.Load(), r.passed.Load(), r.cut.Load())
	}
	t.Logf("%d packets", r.sent.Load())
}

// TestReplaceInPlaceIsNoticed is the control: lists that are emptied and filled again
// are not what packets may see.
func TestReplaceInPlaceIsNoticed(t *testing.T) {
	r := newReplacement(t)
	var lists []memory[lbListNode]
	var nodes [2][][]lbListNode
	for i, name := range []string{"bad", "good"} {
		var id ebpf.MapID
		if err := r.maps.SourceLists.Lookup(r.lists.lists[name].number, &id); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		mem, err := mapMemory[lbListNode](m)
		if err != nil {
			t.Fatal(err)
		}
		defer mem.close()
		lists = append(lists, mem)
		for version := range r.versions {
			nodes[version] = append(nodes[version], buildSourceList(r.versions[version].SourceLists[i].Prefixes))
		}
	}
	deadline := time.Now().Add(time.Minute)
	seen := func(int) bool { return r.passed.Load() > 0 && r.cut.Load() > 0 || time.Now().After(deadline) }
	r.run(seen, func(version int) {
		for i := range lists {
			clear(lists[i].elements)
			copy(lists[i].elements, nodes[1-version][i])
		}
	})
	if r.passed.Load() == 0 || r.cut.Load() == 0 {
		t.Errorf("of %d packets %d of a denied source passed, and %d of an allowed one did not: replacing in place went unnoticed", r.sent.Load(), r.passed.Load(), r.cut.Load())
	}
}

// TestGuardsOutlive: guards hold without a daemon, while the next one takes over, and
// with other limits; what the former one's lists were leaves the map.
func TestGuardsOutlive(t *testing.T) {
	path := bpffs(t)
	limits := withRoom(smallLimits())
	p, err := Open(path, limits, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Close() }()
	f := ipv4()
	state := forwarding.State{
		Pools:       []forwarding.Pool{settledPool("pool", 251)},
		VIPs:        []model.VIP{{Name: "vip", Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "pool", Endpoints: listen(f.vip, 80), Sources: model.Sources{Deny: "bad"}}},
		SourceLists: []model.SourceList{listOf(t, "bad", f.bad().String()), listOf(t, "good", f.client.String())},
	}
	in := from(f.packet(tcp{from: 4000, to: 80, flags: flagSYN}), f.bad()).bytes()
	expect := func(when string, lists int) {
		t.Helper()
		before := p.count(t, "drop_denied")
		expectVerdict(t, p, in, xdpDrop)
		if p.count(t, "drop_denied") != before+1 {
			t.Errorf("%s: the bad is not denied", when)
		}
		n := 0
		for number := range sourceListNumbers(p.limits) {
			var id uint32
			if p.maps.SourceLists.Lookup(number, &id) == nil {
				n++
			}
		}
		if n != lists {
			t.Errorf("%s: the map has %d lists, want %d", when, n, lists)
		}
	}
	reopen := func(limits Limits) {
		t.Helper()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if p, err = Open(path, limits, testOptions()); err != nil {
			t.Fatal(err)
		}
	}
	applyTo(t, p, state)
	expect("at first", 1)
	reopen(limits)
	expect("adopted", 1)
	state.VIPs[0].Sources.Allow = "good"
	applyTo(t, p, state)
	expect("applied", 2)
	limits.SourceLists, limits.VIPs = 3, 99
	reopen(limits)
	applyTo(t, p, state)
	expect("with other limits", 2)
	c, err := p.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Dropped["vip"] {
		if r.Name == "drop_denied" && r.Packets != 4 {
			t.Errorf("the VIP has counted %d, want 4", r.Packets)
		}
	}
}
