package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const (
	natSenders = 4
	natRounds  = 10_000
)

// ports are options with one source of so many ports for each family.
func ports(n uint16) Options {
	o := natOptions()
	o.NATSourceIPv4, o.NATSourceIPv6 = netip.MustParsePrefix("10.9.0.4/32"), netip.MustParsePrefix("2001:db8:9::8/128")
	o.NATPorts = model.PortRange{First: 32768, Last: 32768 + n - 1}
	return o
}

// natSender sends frames from a thread of its own.
type natSender struct {
	*natTable
	errors *atomic.Int64
}

// leaves is the frame that leaves, nil if none does.
func (s natSender) leaves(frame []byte) []byte {
	verdict, out, err := send(s.Plane, frame)
	if err != nil {
		s.errors.Add(1)
		s.Error(err)
		return nil
	}
	if verdict != xdpTX || bytes.Equal(out, frame) {
		return nil
	}
	return out
}

// wrong notes that something is not as it must be, of which the first few are told.
func (s natSender) wrong(quiet bool, format string, args ...any) {
	if n := s.errors.Add(1); n <= 5 && !quiet {
		s.Errorf(format, args...)
	}
}

// clientOf is a conversation of the nth client of a service.
func (t *natTable) clientOf(s natServed, n int) talk {
	c := t.newTalk(s, model.TCP)
	c.client = uint16(10000 + n%50000)
	return c
}

// numbered changes whom a packet is from.
func numbered(p packet, n int) packet {
	b := p.source.AsSlice()
	b[len(b)-1], b[len(b)-2] = byte(n), byte(n>>8)
	p.source, _ = netip.AddrFromSlice(b)
	return p
}

// live are the translations in use, by their clients' tuples.
func (t *natTable) live() map[Flow][]uint32 {
	all := map[Flow][]uint32{}
	for i := range t.translations.elements {
		e := &t.translations.elements[i]
		if lbNatFlag(atomic.LoadUint64(&e.State)>>flowFlagsShift)&lbNatFlagNAT_USED != 0 {
			f := e.flow(protocolOf(uint32(i)))
			all[f] = append(all[f], uint32(i))
		}
	}
	return all
}

// together has senders, one for each CPU, do something at the same moment, again and
// again.
func together(rounds int, do func(sender, round int)) {
	var ready atomic.Int64
	var all sync.WaitGroup
	senders := max(2, runtime.NumCPU())
	for sender := range senders {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for round := range rounds {
				ready.Add(1)
				for tries := 0; ready.Load() < int64((round+1)*senders); tries++ {
					if tries > 1000 {
						runtime.Gosched()
					}
				}
				do(sender, round)
			}
		})
	}
	all.Wait()
}

// raceForOne has all senders begin the same connections at the same time, and returns
// how many of these have another number of translations than one.
func (t *natTable) raceForOne(s natServed, rounds int, meddle func()) int {
	sender := natSender{t, &atomic.Int64{}}
	frames := make([][]byte, rounds)
	for n := range frames {
		frames[n] = t.clientOf(s, n).ask(flagSYN, nil).bytes()
	}
	together(rounds, func(n, round int) {
		if sender.leaves(frames[round]) == nil {
			sender.wrong(false, "the first packet of connection %d does not leave", round)
		}
		if n == 0 && meddle != nil {
			meddle()
		}
	})
	wrong := 0
	live := t.live()
	for n := range frames {
		c := t.clientOf(s, n)
		f := Flow{netip.AddrPortFrom(c.family.client, c.client), netip.AddrPortFrom(c.address, c.vip), model.TCP}
		if len(live[f]) != 1 {
			wrong++
		}
	}
	return wrong
}

// TestNATOneTranslation: the same first packet on several CPUs at once begins one
// connection.
func TestNATOneTranslation(t *testing.T) {
	l := newNATTable(t, natSetting{options: natOptions()})
	for _, f := range families() {
		// Those to backends of the other IP version are among sessions.
		for _, s := range l.every(f, "") {
			if s.mode != model.ModeFullNAT {
				continue
			}
			if wrong := l.raceForOne(s, natRounds, nil); wrong != 0 {
				t.Errorf("%s: %d connections have more than one translation, or none", s.name, wrong)
			}
		}
	}
	l.agree(t)
}

// The control: where packets do not find what others have begun, there are more.
func TestNATOneTranslationNotices(t *testing.T) {
	l := newNATTable(t, natSetting{options: natOptions()})
	if l.raceForOne(l.at(ipv4(), "fullnat to ipv6", ""), 500, func() { clear(l.sessions.elements) }) == 0 {
		t.Error("each has one: the test shows nothing")
	}
}

// raceForPorts has every sender begin connections of its own until there is no port,
// and returns how many have a port that another has.
func (t *natTable) raceForPorts(s natServed, meddle func(source netip.AddrPort)) int {
	sender := natSender{t, &atomic.Int64{}}
	var mu sync.Mutex
	owners := map[netip.AddrPort]int{}
	together(1500, func(n, round int) {
		c := t.conversationOf(s, n*1500+round)
		out := sender.leaves(c.ask(flagSYN, nil).bytes())
		if out == nil {
			return
		}
		c.source = sourceOf(out, s.backend.Address.Is6())
		mu.Lock()
		defer mu.Unlock()
		owners[c.source]++
		if owners[c.source] > 1 {
			sender.wrong(true, "")
		}
		if meddle != nil {
			meddle(c.source)
		}
	})
	if meddle == nil && len(owners) < int(t.sources.portCount())*9/10 {
		t.Errorf("%d connections of %d ports", len(owners), t.sources.portCount())
	}
	return int(sender.errors.Load())
}

// conversationOf is the nth of a service, made without changing the table.
func (t *natTable) conversationOf(s natServed, n int) talk {
	c := talk{ingress: loopback}
	c.natService, c.protocol, c.client, c.vip = s.natService, model.TCP, uint16(10000+n), s.port()
	c.source = netip.AddrPortFrom(s.family.client, c.client)
	return c
}

// TestNATPortsAreOnes: no two connections that begin on several CPUs have one port, also
// when there are hardly any.
func TestNATPortsAreOnes(t *testing.T) {
	for _, n := range []uint16{64, 1000, 2000} {
		l := newNATTable(t, natSetting{options: ports(n)})
		for _, f := range families() {
			if wrong := l.raceForPorts(l.at(f, "fullnat", ""), nil); wrong != 0 {
				t.Errorf("%s, %d ports: %d connections have one that another has", f.name, n, wrong)
			}
		}
		l.agree(t)
	}
}

// The control: ports that look free but are not are given away again.
func TestNATPortsAreOnesNotices(t *testing.T) {
	l := newNATTable(t, natSetting{options: ports(1000)})
	free := func(source netip.AddrPort) {
		l.translations.elements[source.Port()].State = 0
		l.natPorts.elements[source.Port()/natPortsPerLine].Word[source.Port()/natPortsPerWord%8] = 0
	}
	if l.raceForPorts(l.at(ipv4(), "fullnat", ""), free) == 0 {
		t.Error("none has another's: the test shows nothing")
	}
}

// agree wants sessions and the bitmap to say what translations do.
func (t *natTable) agree(tb testing.TB) {
	tb.Helper()
	if err := t.agreement(); err != nil {
		tb.Error(err)
	}
}

// agreement is nil if each translation in use that is not at home has one session, each
// session such a translation, and the bitmap a bit for each translation in use and for no
// other port of ours.
func (t *natTable) agreement() error {
	words := map[uint64]int{}
	for i := range t.sessions.elements {
		for _, word := range t.sessions.elements[i].Word {
			if word != 0 {
				words[word]++
			}
		}
	}
	for i := range t.translations.elements {
		e, index := &t.translations.elements[i], uint32(i)
		flags := lbNatFlag(e.State >> flowFlagsShift)
		bit := t.natPorts.elements[index/natPortsPerLine].Word[index/natPortsPerWord%8]>>(index%natPortsPerWord)&1 != 0
		ours := t.sources.Ports.Contains(uint16(index))
		if want := flags != 0 || !ours; bit != want {
			return fmt.Errorf("translation %d: bit %t, flags %#x, a port of ours: %t", i, bit, flags, ours)
		}
		if flags == 0 {
			continue
		}
		if flags&lbNatFlagNAT_CLAIMED != 0 {
			return fmt.Errorf("translation %d is claimed, and nobody writes it", i)
		}
		f := e.flow(protocolOf(index))
		hash, want := t.seed.Hash(f), 1
		if t.sources.isAtHome(f, hash, index) {
			want = 0
		}
		word := sessionWord(hash, index)
		if words[word] != want {
			return fmt.Errorf("translation %d of %v has %d sessions, not %d", i, f, words[word], want)
		}
		delete(words, word)
	}
	if len(words) > 0 {
		return fmt.Errorf("%d sessions without a translation", len(words))
	}
	return nil
}

// reuse is a port that two connections have by turns.
type reuse struct {
	*natTable
	talks [2]talk
	index uint32
}

// newReuse leaves one port free, and readies two connections for it, to two backends.
func newReuse(t *testing.T) *reuse {
	l := newNATTable(t, natSetting{options: ports(64)})
	r := &reuse{natTable: l}
	f := ipv4()
	for i, kind := range []string{"", kindClamped} {
		r.talks[i] = l.conversationOf(l.at(f, "fullnat", kind), 1+i)
		if i == 1 {
			r.talks[i].tags = []tag{{etherVLAN, 9}}
		}
	}
	// Only one of the ports is left.
	r.index = 32768 + 17
	for i := range l.natPorts.elements {
		for j := range l.natPorts.elements[i].Word {
			l.natPorts.elements[i].Word[j] = ^uint64(0)
		}
	}
	r.free()
	for i := range r.talks {
		r.talks[i].source = netip.AddrPortFrom(l.sources.address(0), uint16(r.index))
	}
	return r
}

// asks and replies are a client's packet and its backend's; the second client has
// another address and its frames another source.
func (r *reuse) asks(i int, flags uint8) packet {
	p := numbered(r.talks[i].ask(flags, text(10)), 100+i)
	p.from[5] = byte(0x70 + i)
	return p
}
func (r *reuse) replies(i int) packet { return r.talks[i].answer(flagACK, text(10)) }

// reads are what a connection's packets are to leave as.
func (r *reuse) asked(i int) []byte { return r.talks[i].asked(r.asks(i, flagACK)).bytes() }
func (r *reuse) replied(i int) []byte {
	p := r.answered(r.talks[i], r.replies(i))
	p.destination, p.to = r.asks(i, 0).source, r.asks(i, 0).from
	return p.bytes()
}

// free takes the port from whoever has it.
func (r *reuse) free() {
	state := atomic.LoadUint64(&r.translations.elements[r.index].State)
	r.freeTranslation(r.index, state)
	atomic.AndUint64(&r.natPorts.elements[r.index/natPortsPerLine].Word[r.index/natPortsPerWord%8], ^(uint64(1) << (r.index % natPortsPerWord)))
}

// run has the connections have the port by turns while others send packets of both, and
// returns how many of these leave as they never should, and how many at all.
func (r *reuse) run(meddle func(turn int)) (mixed, whole int64) {
	sender := natSender{r.natTable, &atomic.Int64{}}
	var readers, writer sync.WaitGroup
	var ended atomic.Bool
	var left atomic.Int64
	for n := range natSenders - 1 {
		in, want := [4][]byte{}, [4][]byte{}
		for i := range 2 {
			in[i], want[i] = r.asks(i, flagACK).bytes(), r.asked(i)
			in[2+i], want[2+i] = r.replies(i).bytes(), r.replied(i)
		}
		readers.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for round := range natRounds * 3 {
				i := (round + n) % 4
				out := sender.leaves(in[i])
				if out == nil || isReset(out) {
					continue
				}
				if left.Add(1); !slices.Equal(out, want[i]) {
					sender.wrong(meddle != nil, "packet %d leaves as another's:\n%swant\n%s", i, dump(out), dump(want[i]))
				}
			}
		})
	}
	writer.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		syn := [2][]byte{r.asks(0, flagSYN).bytes(), r.asks(1, flagSYN).bytes()}
		for turn := 0; !ended.Load(); turn++ {
			if meddle != nil {
				meddle(turn)
				continue
			}
			r.free()
			sender.leaves(syn[turn%2])
		}
	})
	readers.Wait()
	ended.Store(true)
	writer.Wait()
	return sender.errors.Load(), left.Load()
}

// isReset reports whether a frame is a TCP reset.
func isReset(frame []byte) bool {
	at := headerEthernet + headerIPv4 + 13
	if binary.BigEndian.Uint16(frame[12:]) == etherVLAN {
		at += headerTag
	}
	return frame[at]&flagRST != 0
}

// TestNATReuseIsWhole: while a port goes from one connection to another and back, every
// packet is translated as of one of them, and as of its own.
func TestNATReuseIsWhole(t *testing.T) {
	r := newReuse(t)
	mixed, whole := r.run(nil)
	if mixed != 0 || whole < natRounds {
		t.Errorf("%d of %d packets are mixtures", mixed, whole)
	}
	t.Logf("%d packets", whole)
}

// The control: a writer that does not say that it writes shows in packets.
func TestNATReuseNotices(t *testing.T) {
	r := newReuse(t)
	var entries [2]lbTranslation
	for i := range entries {
		r.free()
		r.through(t, r.asks(i, flagSYN).bytes())
		entries[i] = r.translations.elements[r.index]
	}
	entries[1].State = entries[0].State
	mixed, whole := r.run(func(turn int) {
		entry := &r.translations.elements[r.index]
		entry.Client = entries[turn%2].Client
		runtime.Gosched()
		entry.Mac, entry.Ports, entry.Vlan = entries[turn%2].Mac, entries[turn%2].Ports, entries[turn%2].Vlan
	})
	if mixed == 0 {
		t.Errorf("none of %d packets is a mixture: the test shows nothing", whole)
	}
}
