package dataplane

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// sweeps lets some time pass and makes whole passes over flows and translations.
func (t *natTable) sweeps(n int) {
	t.Helper()
	for range n {
		t.SetClock(t.Clock() + 100)
		for done := false; !done; {
			var err error
			if done, err = t.Sweep(1 << 20); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// of is the translation of a conversation.
func (t *natTable) of(c talk) (*lbTranslation, uint32) {
	number, _ := t.sources.number(c.source.Addr())
	index := number*natPerAddress + uint32(c.source.Port())
	if c.protocol == model.UDP {
		index += natUDP
	}
	return &t.translations.elements[index], index
}

// known reports whether a conversation has its translation still.
func (t *natTable) known(c talk) bool {
	e, _ := t.of(c)
	return lbNatFlag(e.State>>flowFlagsShift)&lbNatFlagNAT_USED != 0 && unmapped(e.Client) == c.family.client && e.flow(c.protocol).Source.Port() == c.client
}

// inject has a translation say that its latest packet came so long ago, and other flags.
func (t *natTable) inject(c talk, flags lbNatFlag, age time.Duration) {
	t.Helper()
	now, err := natNow()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := t.of(c)
	seen := uint64(int64(now)-int64(age>>natTickShift)) & flowTickMask
	state := atomic.LoadUint64(&e.State)&(1<<flowFlagsShift-1)&^uint64(flowTickMask) | seen
	atomic.StoreUint64(&e.State, state|uint64(lbNatFlagNAT_USED|flags)<<flowFlagsShift)
}

// natAge is a state of a connection and how long it may be silent.
type natAge struct {
	name  string
	flags lbNatFlag
	idle  time.Duration
}

func natAges() []natAge {
	const replied = natOpen
	brief := time.Minute
	return []natAge{
		{"begun", 0, brief},
		{"half open: its client is silent since it began", lbNatFlagNAT_REPLIED, brief},
		{"established", replied, model.DefaultIdleTimeout},
		{"closed by its client", replied | lbNatFlagNAT_CLIENT_CLOSED, model.DefaultIdleTimeout},
		{"closed by its backend", replied | lbNatFlagNAT_BACKEND_CLOSED, model.DefaultIdleTimeout},
		{"closed", replied | natClosed, brief},
		{"reset", replied | lbNatFlagNAT_RESET, brief},
		{"refused", lbNatFlagNAT_RESET, brief},
	}
}

// A few seconds more or less, for the time that the test itself takes.
const natSlack = 5 * time.Second

// TestNATSweep: a sweep frees the ports of connections that are over, and of no others.
func TestNATSweep(t *testing.T) {
	l := newNATTable(t, natSetting{options: natOptions()})
	for _, f := range families() {
		for _, s := range l.every(f, "")[1:] {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				for _, a := range natAges() {
					young, old, ahead := l.talk(s, protocol), l.talk(s, protocol), l.talk(s, protocol)
					l.inject(young, a.flags, a.idle-natSlack)
					l.inject(old, a.flags, a.idle+natSlack)
					l.inject(ahead, a.flags, -time.Second)
					l.sweeps(1)
					if !l.known(young) || !l.known(ahead) {
						t.Errorf("%s, %s: freed too early", s.vip(protocol), a.name)
					}
					if l.known(old) {
						t.Errorf("%s, %s: not freed", s.vip(protocol), a.name)
					}
				}
			}
		}
	}
	l.agree(t)
}

// TestNATPortGivesWay: where no port is free, one is taken from a connection that is over,
// or nearly, and from no other.
func TestNATPortGivesWay(t *testing.T) {
	t.Parallel()
	for _, a := range natAges() {
		brief := a.idle == time.Minute
		for name, c := range map[string]struct {
			age           time.Duration
			gives, evicts bool
		}{
			"at once":     {0, false, false},
			"soon":        {natSlack, brief, brief},
			"before long": {a.idle - natSlack, brief, brief},
			"in the end":  {a.idle + natSlack, true, false},
		} {
			t.Run(a.name+", "+name, func(t *testing.T) {
				l := newNATTable(t, natSetting{options: ports(64)})
				s := l.at(ipv4(), "fullnat", "")
				victim := l.talk(s, model.TCP)
				if err := l.exhaust(s, model.TCP); err != nil {
					t.Fatal(err)
				}
				l.inject(victim, a.flags, c.age)
				next := l.newTalk(s, model.TCP)
				// A packet looks at some ports, chance says which.
				verdict, out := l.send(&next, next.ask(flagSYN, nil))
				for range 100 {
					if verdict == xdpDrop {
						verdict, out = l.send(&next, next.ask(flagSYN, nil))
					}
				}
				if given := verdict == xdpTX; given != c.gives {
					t.Errorf("gives way %t, want %t", given, c.gives)
				} else if given && sourceOf(out, false) != victim.source {
					t.Error("another gives way")
				}
				events, err := l.FlowEvents()
				if err != nil || (events.EvictedOpen == 1) != c.evicts || events.EvictedOpen > 1 {
					t.Errorf("%d evicted, %v", events.EvictedOpen, err)
				}
				l.agree(t)
			})
		}
	}
}

// TestNATRecovers: when ports are used up a connection that ends makes room for one.
func TestNATRecovers(t *testing.T) {
	l := newNATTable(t, natSetting{options: ports(64)})
	for _, s := range l.every(ipv6(), "")[1:] {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c := l.talk(s, protocol)
			if err := l.exhaust(s, protocol); err != nil {
				t.Fatal(err)
			}
			before := l.NAT()
			l.inject(c, natOpen|lbNatFlagNAT_RESET, 2*time.Minute)
			l.sweeps(1)
			after := l.NAT()
			if after.Exhausted <= before.Exhausted || after.Used == 0 {
				t.Errorf("%s: %+v, then %+v", s.vip(protocol), before, after)
			}
			l.talk(s, protocol)
			if next := l.newTalk(s, protocol); l.leavesAt(next) {
				t.Errorf("%s: there is one more port than there are", s.vip(protocol))
			}
		}
	}
	l.agree(t)
}

// leavesAt reports whether the first packet of a conversation leaves.
func (t *natTable) leavesAt(c talk) bool {
	t.Helper()
	verdict, _ := t.send(&c, c.ask(flagSYN, nil))
	return verdict == xdpTX
}

// apply applies the table's services after a change.
func (t *natTable) apply(change func(*forwarding.State)) {
	t.Helper()
	state := servedState(t.services)
	change(&state)
	if err := t.do(func() error { return t.Apply(state) }); err != nil {
		t.Fatal(err)
	}
}

// servedPool is that of a service.
func servedPool(state *forwarding.State, s natServed) *forwarding.Pool {
	return &state.Pools[slices.IndexFunc(state.Pools, func(p forwarding.Pool) bool { return p.Name == s.name })]
}

// replaced puts another backend in the place of a service's: new flows go there; what the
// former one keeps is to be said.
func replaced(state *forwarding.State, s natServed, keeps bool) natServed {
	pool := servedPool(state, s)
	next := s
	next.backend.Address = s.backend.Address.Next()
	next.path.Destination[5] ^= 0x80
	state.Paths[next.backend.Address] = next.path
	pool.Backends[0].Takes, pool.Backends[0].Keeps = false, keeps
	pool.Backends = append(pool.Backends, forwarding.Backend{ID: next.backend, Takes: true, Keeps: true})
	pool.Members[0].ID = next.backend
	pool.Table = inTurn(pool.Slots, 1)
	return next
}

// TestNATBackendLeaves: a backend that drains keeps its connections and gets no others; of
// one that is gone TCP is reset, and UDP begins again elsewhere.
func TestNATBackendLeaves(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		l := newNATTable(t, natSetting{options: tableOptions()})
		for _, f := range families() {
			for _, s := range l.every(f, "")[1:] {
				stream, datagrams, ended := l.talk(s, model.TCP), l.talk(s, model.UDP), l.talk(s, model.TCP)
				l.through(t, ended.ask(flagFIN|flagACK, nil).bytes())
				var next natServed
				l.apply(func(state *forwarding.State) { next = replaced(state, s, keeps) })
				check := func(r row) {
					t.Helper()
					if err := l.check(r); err != nil {
						t.Errorf("keeps %t: %s: %v", keeps, r.name, err)
					}
				}
				moved := func(c talk) talk { c.natService = next.natService; return c }
				fresh := l.newTalk(next, model.TCP)
				check(l.first("new", fresh, fresh.ask(flagSYN, nil)))
				check(l.first("again", moved(ended), ended.ask(flagSYN, nil)))
				if keeps {
					for _, c := range []talk{stream, datagrams} {
						check(c.forth("forth", c.ask(flagACK, text(9))))
						check(l.back("back", c, c.answer(flagACK, text(9))))
					}
				} else {
					about := l.reportToBackend(stream, f.anyError(), text(9)).row("about what is gone", 20)
					about.backend, about.out, about.reason = BackendKey{}, nil, "drop_no_connection"
					check(about)
					in := stream.ask(flagACK, text(9))
					r := stream.counted("reset", "tx_reset", in)
					r.out = reset(in).bytes()
					check(r)
					check(l.first("elsewhere", moved(datagrams), datagrams.ask(0, text(9))))
				}
				check(l.first("syn of a stream", moved(stream), stream.ask(flagSYN, nil)))
			}
		}
		l.agree(t)
	}
}

// TestNATNumbersWait: the number of a backend that has left, and that of a VIP, are not
// free while a translation names them; a VIP that goes takes its translations along.
func TestNATNumbersWait(t *testing.T) {
	l := newNATTable(t, natSetting{options: natOptions()})
	s := l.at(ipv4(), "fullnat", "")
	c := l.talk(s, model.TCP)
	without := func(state *forwarding.State) {
		replaced(state, s, false)
		pool := servedPool(state, s)
		pool.Backends = pool.Backends[1:]
	}
	l.apply(without)
	l.sweeps(3)
	if l.leaving() != 1 || !l.known(c) {
		t.Errorf("%d numbers are to be freed, want one; the connection is known: %t", l.leaving(), l.known(c))
	}
	l.inject(c, natOpen|natClosed, 2*time.Minute)
	l.sweeps(2)
	if l.leaving() != 0 || l.known(c) {
		t.Errorf("%d numbers are not free; the connection is known: %t", l.leaving(), l.known(c))
	}
	other := l.talk(l.at(ipv6(), "fullnat", ""), model.TCP)
	l.apply(func(state *forwarding.State) {
		without(state)
		state.VIPs = slices.DeleteFunc(state.VIPs, func(v model.VIP) bool { return strings.HasPrefix(v.Name, "ipv6 fullnat") })
	})
	if !l.NeedsSweep() {
		t.Error("translations of a VIP that is gone, and no sweep")
	}
	l.sweeps(2)
	if l.known(other) || l.leaving() != 0 {
		t.Errorf("%d numbers are not free; a connection of a VIP that is gone is known: %t", l.leaving(), l.known(other))
	}
	l.agree(t)
}

// TestNATAgreement does what packets, time and the control plane do in any order:
// sessions and bitmap say what translations do, and no client has two.
func TestNATAgreement(t *testing.T) {
	t.Parallel()
	l := newNATTable(t, natSetting{options: ports(64)})
	var services []natServed
	for _, f := range families() {
		services = append(services, l.every(f, "")[1:]...)
	}
	rapid.Check(t, func(r *rapid.T) {
		var talks []talk
		for range rapid.IntRange(1, 150).Draw(r, "steps") {
			s := services[rapid.IntRange(0, 3).Draw(r, "service")]
			c := l.conversationOf(s, rapid.IntRange(0, 100).Draw(r, "client"))
			c.protocol = rapid.SampledFrom([]model.Protocol{model.TCP, model.UDP}).Draw(r, "protocol")
			flags := rapid.SampledFrom([]uint8{flagSYN, flagSYN, flagSYN, flagACK, flagFIN | flagACK, flagRST}).Draw(r, "flags")
			switch rapid.IntRange(0, 9).Draw(r, "what") {
			case 0:
				l.sweeps(1)
			case 1, 2, 3:
				if len(talks) > 0 {
					known := talks[rapid.IntRange(0, len(talks)-1).Draw(r, "known")]
					l.through(t, known.answer(flags, nil).bytes())
				}
			case 4:
				if len(talks) > 0 {
					known := talks[rapid.IntRange(0, len(talks)-1).Draw(r, "old")]
					if l.known(known) {
						e, _ := l.of(known)
						l.inject(known, lbNatFlag(e.State>>flowFlagsShift), time.Duration(rapid.IntRange(0, 1200).Draw(r, "age"))*time.Second)
					}
				}
			default:
				verdict, out, err := l.run(ebpf.RunOptions{Data: c.ask(flags, nil).bytes()})
				if err != nil {
					r.Fatal(err)
				}
				if verdict == xdpTX && bytes.HasPrefix(out, s.path.Destination[:]) {
					c.source = sourceOf(out, s.backend.Address.Is6())
					talks = append(talks, c)
				}
			}
		}
		if err := l.agreement(); err != nil {
			r.Fatal(err)
		}
		for f, all := range l.live() {
			if len(all) > 1 {
				r.Fatalf("%v has %d translations", f, len(all))
			}
		}
	})
}

// TestNATAgreementNotices is the control of what tests of agreement look at.
func TestNATAgreementNotices(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*natTable, talk){
		"session lost": func(l *natTable, _ talk) { clear(l.sessions.elements) },
		"session twice": func(l *natTable, c talk) {
			e, index := l.of(c)
			l.addSession(l.seed.Hash(e.flow(c.protocol)), index)
		},
		"session of nobody": func(l *natTable, _ talk) { l.addSession(1<<40, 7) },
		"translation lost":  func(l *natTable, c talk) { e, _ := l.of(c); e.State = 0 },
		"claimed for ever": func(l *natTable, c talk) {
			e, _ := l.of(c)
			e.State |= uint64(lbNatFlagNAT_CLAIMED) << flowFlagsShift
		},
		"bit lost":     func(l *natTable, _ talk) { clear(l.natPorts.elements) },
		"bit too many": func(l *natTable, _ talk) { l.natPorts.elements[100].Word[0] ^= 4 },
	} {
		t.Run(name, func(t *testing.T) {
			l := newNATTable(t, natSetting{options: natOptions()})
			// One that is among sessions.
			c := l.talk(l.at(ipv4(), "fullnat to ipv6", ""), model.TCP)
			l.agree(t)
			if spoil(l, c); l.agreement() == nil {
				t.Error("not noticed")
			}
		})
	}
}
