package dataplane

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// goesOn wants a splice to be known, both ways.
func (c *spliced) goesOn() error {
	return errors.Join(c.forth(flagACK|flagPSH, 1, 1, text(100)), c.back(flagACK|flagPSH, 1, 101, text(1220)))
}

// TestSplicesStay: connections that began with a cookie outlive the setting, and others.
func TestSplicesStay(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.begins(t)
		c.l.protect(t, 0)
		if err := c.goesOn(); err != nil {
			t.Errorf("without cookies: %v", err)
		}
		// A SYN goes on as it is now, however many there are.
		c.l.exhaust(t)
		if _, err := c.l.begin(c.natService, model.TCP, c.client+500, c.vip); err != nil {
			t.Error(err)
		}
		c.l.protect(t, 1)
		if err := c.goesOn(); err != nil {
			t.Errorf("with cookies again: %v", err)
		}
	})
}

// TestSplicesForgotten: of nat nothing is known that could be told, of fullnat both
// ends are.
func TestSplicesForgotten(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		if c.mode != model.ModeFullNAT {
			return
		}
		c.begins(t)
		key, known := c.known(t)
		if known == nil || known.Isn != c.isn || known.Cookie != c.cookie || !known.answered() {
			t.Fatalf("the map has %+v", known)
		}
		if err := c.l.maps.Splices.Delete(&key); err != nil {
			t.Fatal(err)
		}
		in := c.fromClient(tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK, data: text(5)})
		if err := c.l.because(in, back(in, tcp{from: c.vip, to: c.client, seq: c.cookie + 1, flags: flagRST}), "tx_reset"); err != nil {
			t.Errorf("the client: %v", err)
		}
		in = c.fromServer(tcp{seq: c.answer + 1, ack: c.isn + 1, flags: flagACK, data: text(5)})
		if err := c.l.because(in, back(in, tcp{from: c.source.Port(), to: c.listens(), seq: c.isn + 1, flags: flagRST}), "tx_reset"); err != nil {
			t.Errorf("the backend: %v", err)
		}
	})
}

// TestPortsUsedAgain: a client begins another connection from the port of one that is over.
func TestPortsUsedAgain(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.begins(t)
		over := func() error {
			return errors.Join(c.forth(flagACK|flagFIN, 1, 1, nil), c.back(flagACK|flagFIN, 1, 2, nil), c.forth(flagACK, 2, 2, nil))
		}
		if err := over(); err != nil {
			t.Fatal(err)
		}
		// With another cookie.
		c.isn, c.answer = 77, 99
		c.begins(t)
		if err := errors.Join(c.goesOn(), c.forth(flagACK|flagFIN, 101, 1, nil), c.back(flagACK|flagFIN, 1221, 102, nil)); err != nil {
			t.Fatalf("with another cookie: %v", err)
		}
		// Below the rate, without one.
		c.l.allow(t, 0)
		plain, err := c.l.begin(c.natService, model.TCP, c.client, c.vip)
		if err != nil {
			t.Fatal(err)
		}
		for _, flags := range []uint8{flagSYN | flagACK, flagACK} {
			if err := c.l.passes(plain.fromBackend(flags, nil), plain.toClient(c.l, flags, nil), c.replyVerdict()); err != nil {
				t.Error(err)
			}
		}
		if err := c.l.passes(plain.toVIP(flagACK, text(7)), plain.toBackend(flagACK, text(7)), xdpTX); err != nil {
			t.Error(err)
		}
	})
}

// TestSYNsOfSplices: a SYN within a connection is the backend's to judge, and what it
// says of it is shifted like all else: nobody ends a splice by sending one.
func TestSYNsOfSplices(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.begins(t)
		c.l.allow(t, 0)
		s := tcp{seq: c.isn + 5000, flags: flagSYN, options: synOptions()}
		if err := c.l.because(c.fromClient(s), c.atBackend(s), "tx_forwarded"); err != nil {
			t.Errorf("below the rate: %v", err)
		}
		if err := errors.Join(c.back(flagACK, 1, 1, nil), c.goesOn()); err != nil {
			t.Errorf("after a SYN below the rate: %v", err)
		}
		c.l.exhaust(t)
		in := c.fromClient(s)
		var err error
		if c.mode == model.ModeFullNAT {
			err = c.l.because(in, in, "drop_syn_flood")
		} else {
			d := *c
			err = d.ask(in)
		}
		if err := errors.Join(err, c.goesOn()); err != nil {
			t.Errorf("above the rate: %v", err)
		}
	})
}

// TestCookiesOfFramesWithMore: tags, options and extension headers, padding.
func TestCookiesOfFramesWithMore(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		for i, change := range []func(*packet){
			func(p *packet) { p.padding = 6 },
			func(p *packet) {
				if p.ipv6() {
					p.extensions = []extension{hopByHop(1), destinationOptions(2)}
				} else {
					p.options = aligned(nops(5))
				}
			},
			func(p *packet) { p.payload = withData(p.payload.(tcp)) },
		} {
			d := newSpliced(c.l, c.natService, c.client+uint16(100*i))
			d.l.exhaust(t)
			in := d.syn()
			change(&in)
			if err := d.ask(in); err != nil {
				t.Errorf("change %d: the SYN: %v", i, err)
				continue
			}
			if i == 2 {
				continue
			}
			in = d.returning()
			change(&in)
			verdict, out, err := d.l.run(ebpf.RunOptions{Data: in.bytes()})
			if err != nil || verdict != xdpTX {
				t.Errorf("change %d: verdict %d, %v", i, verdict, err)
				continue
			}
			if d.mode == model.ModeFullNAT && d.backend.Address.Is6() == d.family.ipv6 && len(in.options)+len(in.extensions) > 0 {
				continue // the source is behind what there is more
			}
			if d.mode == model.ModeFullNAT {
				d.source = sourceOf(out, d.backend.Address.Is6())
			}
			want := d.theSYN()
			if d.backend.Address.Is6() == d.family.ipv6 {
				want.options, want.extensions = in.options, in.extensions
			}
			if err := errors.Join(checkBytes(out, want.bytes()), wellFormed(out)); err != nil {
				t.Errorf("change %d: the cookie: %v", i, err)
			}
		}
	})
}

func withData(s tcp) tcp {
	s.data = text(100)
	return s
}

// TestFragmentsOfSplices: the first one tells numbers, of both directions.
func TestFragmentsOfSplices(t *testing.T) {
	eachSpliced(t, func(t *testing.T, c *spliced) {
		if c.backend.Address.Is6() != c.family.ipv6 {
			return
		}
		c.begins(t)
		s := tcp{seq: c.isn + 1, ack: c.cookie + 1, flags: flagACK, data: text(104)}
		shifted := s
		shifted.ack = c.answer + 1
		if err := c.l.fragments(c.fromClient(s), c.atBackend(shifted), xdpTX); err != nil {
			t.Errorf("from the client: %v", err)
		}
		s = tcp{seq: c.answer + 1, ack: c.isn + 1, flags: flagACK, data: text(104)}
		shifted = s
		shifted.seq = c.cookie + 1
		if err := c.l.fragments(c.fromServer(s), c.atClient(shifted), c.replyVerdict()); err != nil {
			t.Errorf("from the backend: %v", err)
		}
	})
}

// fragments wants the first fragment of a packet to leave as that of another.
func (l *natLab) fragments(in, want packet, verdict uint32) error {
	in, want = l.firstFragment(in), l.firstFragment(want)
	got, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
	if err == nil && got != verdict {
		err = fmt.Errorf("verdict %d, want %d", got, verdict)
	}
	return errors.Join(err, checkBytes(out, want.bytes()))
}

// TestCookiesWithoutBackends: who has returned a cookie hears that nobody is there.
func TestCookiesWithoutBackends(t *testing.T) {
	down := func(s *forwarding.State) {
		for i := range s.Pools {
			s.Pools[i].Members, s.Pools[i].Table, s.Pools[i].Reset = nil, nil, true
		}
	}
	eachSpliced(t, func(t *testing.T, c *spliced) {
		c.l.exhaust(t)
		if err := c.ask(c.syn()); err != nil {
			t.Fatal(err)
		}
		in := c.returning()
		if err := c.l.because(in, back(in, tcp{from: c.vip, to: c.client, seq: c.cookie + 1, flags: flagRST}), "tx_reset"); err != nil {
			t.Error(err)
		}
	}, down)
}
