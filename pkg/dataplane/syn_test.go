package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// newSYNLab is a lab whose TCP VIPs let one SYN a second through, and so give all
// others cookies.
func newSYNLab(t testing.TB, change ...func(*forwarding.State)) *natLab {
	t.Helper()
	l := newNATLab(t)
	l.protect(t, 1, change...)
	return l
}

// protect gives all TCP VIPs a rate.
func (l *natLab) protect(t testing.TB, rate uint32, change ...func(*forwarding.State)) {
	t.Helper()
	state := natState(natServices())
	for i := range state.VIPs {
		if state.VIPs[i].Protocol == model.TCP {
			state.VIPs[i].SYNCookies = rate
		}
	}
	for _, f := range change {
		f(&state)
	}
	if err := l.do(func() error { return l.Apply(state) }); err != nil {
		t.Fatal(err)
	}
}

// exhaust has all VIPs let no SYN through until a second has passed.
func (l *natLab) exhaust(t testing.TB) {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		t.Fatal(err)
	}
	// See bpf/limit.h.
	l.allow(t, limitEpoch+uint64(ts.Nano())<<4)
}

// allow has all VIPs let SYNs through since a time, so 0 stands for a burst.
func (l *natLab) allow(t testing.TB, since uint64) {
	t.Helper()
	for _, v := range l.applied.vips {
		if err := l.maps.VipBuckets.Put(v.id, lbVipBuckets{Syns: since}); err != nil {
			t.Fatal(err)
		}
	}
}

// spliced is a conversation that begins with a cookie.
type spliced struct {
	conversation
	l *natLab
	// isn is the client's first number, cookie what it is told, and answer the
	// backend's.
	isn, cookie, answer uint32
}

// theSYN is what a client of today sends.
func synOptions() []byte {
	return slices.Concat(mss(1460), []byte{4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7})
}

func newSpliced(l *natLab, s natService, client uint16) *spliced {
	return &spliced{
		l: l, isn: 0xfffffff0, answer: 0x80000000 + uint32(client),
		conversation: conversation{
			natService: s, client: client, vip: s.port(), protocol: model.TCP, source: netip.AddrPortFrom(s.family.client, client),
		},
	}
}

// fromClient is a packet of the client's, as it leaves there.
func (c *spliced) fromClient(s tcp) packet {
	s.from, s.to = c.client, c.vip
	p := c.family.packet(s)
	p.destination = c.address
	return p
}

// atBackend is what a backend gets.
func (c *spliced) atBackend(s tcp) packet {
	p := c.toBackend(0, nil)
	s.from, s.to = c.source.Port(), c.listens()
	p.payload = s
	return p
}

func (c *spliced) fromServer(s tcp) packet {
	p := c.fromBackend(0, nil)
	s.from, s.to = c.listens(), c.source.Port()
	p.payload = s
	return p
}

func (c *spliced) atClient(s tcp) packet {
	p := c.toClient(c.l, 0, nil)
	s.from, s.to = c.vip, c.client
	p.payload = s
	return p
}

// back is a packet of the balancer's own, in answer to one.
func back(to packet, s tcp) packet {
	return packet{to: to.from, from: to.to, tags: to.tags, source: to.destination, destination: to.source, ttl: 64, fragment: 0x4000, payload: s}
}

// because wants a packet to leave as another for a reason.
func (l *natLab) because(in, want packet, reason string) error {
	before, err := l.Counters()
	if err != nil {
		return err
	}
	verdict, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
	if err != nil {
		return err
	}
	after, err := l.Counters()
	if err != nil {
		return err
	}
	for i, r := range after.Reasons {
		if n := r.Packets - before.Reasons[i].Packets; (n == 1) != (r.Name == reason) || n > 1 {
			err = errors.Join(err, fmt.Errorf("%d packets of %s, want one of %s", n, r.Name, reason))
		}
	}
	return errors.Join(err, checkVerdict(verdict, reason), checkBytes(out, want.bytes()), wellFormed(out))
}

// replyReason is how what backends send leaves for the client.
func (s natService) replyReason() string {
	if s.mode == model.ModeNAT {
		return "redirect_reply"
	}
	return "tx_reply"
}

// ask sends the SYN and wants a cookie.
func (c *spliced) ask(in packet) error {
	verdict, out, err := c.l.run(ebpf.RunOptions{Data: in.bytes()})
	if err != nil || verdict != xdpTX {
		return errors.Join(err, fmt.Errorf("verdict %d of a SYN", verdict))
	}
	c.cookie = binary.BigEndian.Uint32(out[len(out)-20:])
	seq := in.payload.(tcp).seq
	want := back(in, tcp{from: c.vip, to: c.client, seq: c.cookie, ack: seq + 1, flags: flagSYN | flagACK, options: mss(1440), shut: true})
	return errors.Join(checkBytes(out, want.bytes()), wellFormed(out))
}

func (c *spliced) syn() packet {
	return c.fromClient(tcp{seq: c.isn, flags: flagSYN, options: synOptions()})
}

// returning is the packet that brings the cookie back.
func (c *spliced) returning() packet {
	return c.fromClient(tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK})
}

// theSYN is the one that the backend gets.
func (c *spliced) theSYN() packet {
	return c.atBackend(tcp{seq: c.isn, flags: flagSYN, options: mss(1220)})
}

// splice returns the cookie, and wants the backend to get the SYN.
func (c *spliced) splice(in packet) error {
	verdict, out, err := c.l.run(ebpf.RunOptions{Data: in.bytes()})
	if err != nil || verdict != xdpTX {
		return errors.Join(err, fmt.Errorf("verdict %d of a cookie that comes back", verdict))
	}
	if c.mode == model.ModeFullNAT {
		c.source = sourceOf(out, c.backend.Address.Is6())
	}
	return errors.Join(checkBytes(out, c.theSYN().bytes()), wellFormed(out))
}

func (c *spliced) synACK() packet {
	return c.fromServer(tcp{seq: c.answer, ack: c.isn + 1, flags: flagSYN | flagACK, options: mss(1460)})
}

// opens has the backend answer, and wants the client's window to open.
func (c *spliced) opens() error {
	return c.l.because(c.synACK(), c.atClient(tcp{seq: c.cookie + 1, ack: c.isn + 1, flags: flagACK}), c.replyReason())
}

// begins goes through all of that.
func (c *spliced) begins(t testing.TB) *spliced {
	t.Helper()
	c.l.exhaust(t)
	if err := c.ask(c.syn()); err != nil {
		t.Fatal(err)
	}
	if err := c.splice(c.returning()); err != nil {
		t.Fatal(err)
	}
	if err := c.opens(); err != nil {
		t.Fatal(err)
	}
	return c
}

// forth wants the backend to get what the client sends, and back the reverse.
func (c *spliced) forth(flags uint8, seq, ack uint32, data []byte) error {
	s := tcp{seq: c.isn + seq, ack: c.cookie + ack, flags: flags, data: data}
	shifted := s
	if flags&flagACK != 0 {
		shifted.ack = c.answer + ack
	}
	return c.l.because(c.fromClient(s), c.atBackend(shifted), "tx_forwarded")
}

func (c *spliced) back(flags uint8, seq, ack uint32, data []byte) error {
	s := tcp{seq: c.answer + seq, ack: c.isn + ack, flags: flags, data: data}
	shifted := s
	shifted.seq = c.cookie + seq
	return c.l.because(c.fromServer(s), c.atClient(shifted), c.replyReason())
}

// eachSpliced runs a test for every VIP that translates TCP.
func eachSpliced(t *testing.T, f func(*testing.T, *spliced), change ...func(*forwarding.State)) {
	l := newSYNLab(t, change...)
	for i, s := range natServices() {
		t.Run(s.name, func(t *testing.T) { f(t, newSpliced(l, s, uint16(41000+i))) })
	}
}

// TestSplices has conversations that begin with a cookie.
func TestSplices(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		before, err := c.l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		c.l.exhaust(t)
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"SYN", func() error { return c.ask(c.syn()) }},
			{"the cookie", func() error { return c.splice(c.returning()) }},
			{"the cookie again", func() error { return c.splice(c.returning()) }},
			{"a probe of the window", func() error {
				return c.splice(c.fromClient(tcp{seq: c.isn, ack: c.cookie + 1, flags: flagACK}))
			}},
			{"a probe of a byte", func() error {
				return c.splice(c.fromClient(tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK | flagPSH, data: text(1)}))
			}},
			{"a FIN that is early", func() error {
				return c.splice(c.fromClient(tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK | flagFIN}))
			}},
			{"the SYN again", func() error { return c.splice(c.syn()) }},
			{"SYN-ACK", c.opens},
			{"SYN-ACK again", func() error {
				in := c.synACK()
				return c.l.because(in, back(in, tcp{from: c.source.Port(), to: c.listens(), seq: c.isn + 1, ack: c.answer + 1, flags: flagACK}), "tx_syn_ack")
			}},
			{"the cookie, late", func() error { return c.forth(flagACK, 1, 1, nil) }},
			{"a probe, late", func() error { return c.forth(flagACK, 0, 1, nil) }},
			{"request", func() error { return c.forth(flagACK|flagPSH, 1, 1, text(501)) }},
			{"answer", func() error { return c.back(flagACK, 1, 502, text(1220)) }},
			{"ACK", func() error { return c.forth(flagACK, 502, 1221, nil) }},
			{"FIN", func() error { return c.forth(flagACK|flagFIN, 502, 1221, nil) }},
			{"more", func() error { return c.back(flagACK|flagPSH, 1221, 503, text(333)) }},
			{"ACK of more", func() error { return c.forth(flagACK, 503, 1554, nil) }},
			{"their FIN", func() error { return c.back(flagACK|flagFIN, 1554, 503, nil) }},
			{"the last ACK", func() error { return c.forth(flagACK, 503, 1555, nil) }},
		} {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
		}
		after, err := c.l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		name := c.natService.vip(model.TCP)
		if n := after.VIPs[name].Connections - before.VIPs[name].Connections; n == 0 {
			t.Error("no connection is counted")
		}
	})
}

// TestSplicesEndAtOnce: resets go both ways under the numbers that each end knows.
func TestSplicesEndAtOnce(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.begins(t)
		if err := errors.Join(c.forth(flagRST, 1, 0, nil), c.forth(flagRST|flagACK, 1, 1, nil), c.back(flagRST|flagACK, 1, 1, nil)); err != nil {
			t.Error(err)
		}
		d := newSpliced(c.l, c.natService, c.client+1000)
		c.l.exhaust(t)
		err := errors.Join(d.ask(d.syn()), d.splice(d.returning()))
		if err != nil {
			t.Fatal(err)
		}
		refused := d.fromServer(tcp{ack: d.isn + 1, flags: flagRST | flagACK})
		if err := d.l.because(refused, d.atClient(tcp{seq: d.cookie + 1, ack: d.isn + 1, flags: flagRST | flagACK}), d.replyReason()); err != nil {
			t.Errorf("refused by the backend: %v", err)
		}
	})
}

// TestOldConnectionsOfBackends: to a SYN that it takes for a stray of an older connection
// a backend says where that one is, which the client would reset.
func TestOldConnectionsOfBackends(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.l.exhaust(t)
		if err := errors.Join(c.ask(c.syn()), c.splice(c.returning())); err != nil {
			t.Fatal(err)
		}
		for _, s := range []tcp{
			{seq: 7000, ack: 9000, flags: flagACK},
			{seq: 7000, ack: 9000, flags: flagACK | flagSYN},
			{seq: 7000, ack: c.isn + 1, flags: flagACK},
		} {
			in := c.fromServer(s)
			if err := c.l.because(in, back(in, tcp{from: c.source.Port(), to: c.listens(), seq: s.ack, flags: flagRST}), "tx_reset"); err != nil {
				t.Error(err)
			}
		}
		broken := c.synACK()
		frame := broken.bytes()
		frame[len(frame)-1] ^= 1
		before := c.l.count(t, "drop_malformed")
		if verdict, _, err := c.l.run(ebpf.RunOptions{Data: frame}); err != nil || verdict != xdpDrop || c.l.count(t, "drop_malformed") != before+1 {
			t.Errorf("a SYN-ACK with a wrong checksum: verdict %d, %v", verdict, err)
		}
		if err := errors.Join(c.splice(c.returning()), c.opens(), c.back(flagACK, 1, 1, text(9))); err != nil {
			t.Errorf("once that is over: %v", err)
		}
	})
}

// stranger wants a client's packet to be one of no connection: of nat it goes on as it is,
// of fullnat its sender is told.
func (c *spliced) stranger(s tcp) error {
	in := c.fromClient(s)
	if c.mode == model.ModeNAT {
		return c.l.because(in, c.atBackend(s), "tx_forwarded")
	}
	reset := tcp{from: c.vip, to: c.client, seq: s.ack, flags: flagRST}
	if s.flags&flagACK == 0 {
		reset.seq, reset.ack, reset.flags = 0, s.seq, flagRST|flagACK
	}
	return c.l.because(in, back(in, reset), "tx_reset")
}

// TestCookiesAreChecked: what is no valid cookie makes no splice.
func TestCookiesAreChecked(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.l.exhaust(t)
		if err := c.ask(c.syn()); err != nil {
			t.Fatal(err)
		}
		good := tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK}
		for name, change := range map[string]func(*tcp){
			"without ACK":  func(s *tcp) { s.flags = flagPSH },
			"two more":     func(s *tcp) { s.ack += 2 },
			"one less":     func(s *tcp) { s.ack-- },
			"another time": func(s *tcp) { s.ack += 1 << 24 },
			"another ISN":  func(s *tcp) { s.seq++ },
			"with options": func(s *tcp) { s.options = aligned([]byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 1}) },
			"with data":    func(s *tcp) { s.data = text(4) },
			"with SYN":     func(s *tcp) { s.flags |= flagSYN },
			"with FIN":     func(s *tcp) { s.flags |= flagFIN },
		} {
			s := good
			change(&s)
			if err := c.stranger(s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Nobody has been given one for a long time.
		id := c.l.applied.vips[c.natService.vip(model.TCP)].id
		given := c.l.synGiven.elements[id]
		c.l.synGiven.store(id, given-uint64(natTicks(131e9)))
		if err := c.stranger(good); err != nil {
			t.Errorf("too late: %v", err)
		}
		c.l.synGiven.store(id, given)
		if err := c.splice(c.returning()); err != nil {
			t.Errorf("the right one: %v", err)
		}
	})
}

// TestProbesReturnCookies: where the packet that returns the cookie is lost, what the client
// sends next to see whether the window has opened returns it as well.
func TestProbesReturnCookies(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		for i, probe := range []func(*spliced) tcp{
			func(d *spliced) tcp { return tcp{seq: d.isn, ack: d.cookie + 1, flags: flagACK} },
			func(d *spliced) tcp { return tcp{seq: d.isn + 1, ack: d.cookie + 1, flags: flagACK, data: text(1)} },
		} {
			d := newSpliced(c.l, c.natService, c.client+uint16(100*i))
			c.l.exhaust(t)
			if err := d.ask(d.syn()); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.splice(d.fromClient(probe(d))), d.opens(), d.forth(flagACK, 1, 1, text(10))); err != nil {
				t.Errorf("probe %d: %v", i, err)
			}
		}
	})
}

// TestBelowTheRate: SYNs go on as they are.
func TestBelowTheRate(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.l.allow(t, 0)
		conversation, err := c.l.begin(c.natService, model.TCP, c.client, c.vip)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.l.passes(conversation.fromBackend(flagSYN|flagACK, nil), conversation.toClient(c.l, flagSYN|flagACK, nil), c.replyVerdict()); err != nil {
			t.Error(err)
		}
		if err := c.l.passes(conversation.toVIP(flagACK, nil), conversation.toBackend(flagACK, nil), xdpTX); err != nil {
			t.Error(err)
		}
	})
}

// TestRateOfSYNs: of a burst as many go on as of a second.
func TestRateOfSYNs(t *testing.T) {
	const rate = 100
	l := newNATLab(t)
	l.protect(t, rate)
	before := l.count(t, "tx_forwarded")
	for i := range 3 * rate {
		c := newSpliced(l, natServices()[3], uint16(30000+i))
		if _, _, err := l.run(ebpf.RunOptions{Data: c.syn().bytes()}); err != nil {
			t.Fatal(err)
		}
	}
	// And what comes while this goes on.
	if n := l.count(t, "tx_forwarded") - before; n < rate || n > 2*rate {
		t.Errorf("%d SYNs of a burst of %d went on", n, 3*rate)
	}
	if l.count(t, "tx_syn_cookie") == 0 {
		t.Error("no cookie was given")
	}
}

// TestSYNsThatNoCookieAnswers are dropped above the rate.
func TestSYNsThatNoCookieAnswers(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.l.exhaust(t)
		for name, in := range map[string]packet{
			"with FIN": c.fromClient(tcp{seq: c.isn, flags: flagSYN | flagFIN}),
			"with RST": c.fromClient(tcp{seq: c.isn, flags: flagSYN | flagRST}),
			"fragment": c.l.firstFragment(c.fromClient(tcp{seq: c.isn, flags: flagSYN})),
		} {
			if err := c.l.because(in, in, "drop_syn_flood"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// firstFragment is that of a packet.
func (l *natLab) firstFragment(p packet) packet {
	if p.ipv6() {
		p.extensions = []extension{fragmentHeader(0, true)}
	} else {
		p.fragment = 0x2000
	}
	return p
}

// TestSYNsAgain: a SYN that comes again while its connection is known.
func TestSYNsAgain(t *testing.T) {
	l := newSYNLab(t)
	for _, s := range natServices() {
		if s.mode != model.ModeFullNAT {
			continue
		}
		c := newSpliced(l, s, 42000)
		l.allow(t, 0)
		first, err := l.begin(s, model.TCP, c.client, c.vip)
		if err != nil {
			t.Fatal(err)
		}
		// The backend has not answered: perhaps it has never got it.
		l.exhaust(t)
		c.isn, c.source = 100, first.source
		if err := errors.Join(c.ask(c.syn()), c.splice(c.returning())); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if c.source != first.source {
			t.Errorf("%s: from %s, then from %s", s.name, first.source, c.source)
		}
		if err := c.opens(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		// It has: it will answer again by itself.
		d := newSpliced(l, s, 43000)
		l.allow(t, 0)
		first, err = l.begin(s, model.TCP, d.client, d.vip)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.passes(first.fromBackend(flagSYN|flagACK, nil), first.toClient(l, flagSYN|flagACK, nil), s.replyVerdict()); err != nil {
			t.Error(err)
		}
		l.exhaust(t)
		if err := l.because(d.syn(), d.syn(), "drop_syn_flood"); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

// known is the splice of a conversation in the map.
func (c *spliced) known(t testing.TB) (lbTuple, *lbSplice) {
	t.Helper()
	key := lbTuple{
		Source: address(c.family.client), Destination: address(c.address),
		Ports: uint32(bits.ReverseBytes16(c.client)) | uint32(bits.ReverseBytes16(c.vip))<<16,
	}
	var value lbSplice
	if err := c.l.maps.Splices.Lookup(&key, &value); err != nil {
		return key, nil
	}
	return key, &value
}
