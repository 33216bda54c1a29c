package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// conversation is a flow between the client and a VIP, as its packets show it on
// either side of the balancer.
type conversation struct {
	natService
	// port of the client and of the VIP.
	client, vip uint16
	protocol    model.Protocol
	// source is what the backend sees as the client.
	source netip.AddrPort
}

func (c conversation) carried(from, to uint16, flags uint8, data []byte) payload {
	if c.protocol == model.UDP {
		return udp{from: from, to: to, data: data}
	}
	return tcp{from: from, to: to, seq: 100, ack: 200, flags: flags, data: data}
}

// toVIP is a packet of the client's.
func (c conversation) toVIP(flags uint8, data []byte) packet {
	p := c.family.packet(c.carried(c.client, c.vip, flags, data))
	p.destination = c.address
	return p
}

// listens is the port of the backend.
func (c conversation) listens() uint16 {
	if c.backend.Port != 0 {
		return c.backend.Port
	}
	return c.vip
}

// toBackend is the same as the backend gets it.
func (c conversation) toBackend(flags uint8, data []byte) packet {
	p := packet{
		to: c.path.Destination, from: c.path.Source, source: c.source.Addr(), destination: c.backend.Address,
		ttl: 63, payload: c.carried(c.source.Port(), c.listens(), flags, data),
	}
	if p.ipv6() != c.family.ipv6 {
		p.fragment = 0x4000
	}
	return p
}

// fromBackend is a packet of the backend's.
func (c conversation) fromBackend(flags uint8, data []byte) packet {
	return packet{
		to: balancerMAC(), from: c.path.Destination, source: c.backend.Address, destination: c.source.Addr(),
		ttl: 64, payload: c.carried(c.listens(), c.source.Port(), flags, data),
	}
}

// toClient is the same as it leaves for the client.
func (c conversation) toClient(l *natLab, flags uint8, data []byte) packet {
	p := c.family.packet(c.carried(c.vip, c.client, flags, data))
	p.source, p.destination, p.ttl = c.address, c.family.client, 63
	p.to, p.from = clientMAC(), balancerMAC()
	if c.mode == model.ModeNAT {
		p.to, p.from = mac(routerMAC()), l.out
	}
	if c.source.Addr().Is6() != c.family.ipv6 {
		p.fragment = 0x4000
	}
	return p
}

// begin sends the first packet of a conversation and sees where it comes from.
func (l *natLab) begin(s natService, protocol model.Protocol, client, vip uint16) (conversation, error) {
	c := conversation{natService: s, client: client, vip: vip, protocol: protocol, source: netip.AddrPortFrom(s.family.client, client)}
	in := c.toVIP(flagSYN, nil)
	verdict, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
	if err != nil || verdict != xdpTX {
		return c, errors.Join(err, fmt.Errorf("%s: verdict %d of the first packet", s.name, verdict))
	}
	if s.mode == model.ModeFullNAT {
		c.source = sourceOf(out, s.backend.Address.Is6())
	}
	return c, errors.Join(checkBytes(out, c.toBackend(flagSYN, nil).bytes()), wellFormed(out))
}

// sourceOf is the source of an untagged frame without options.
func sourceOf(frame []byte, ipv6 bool) netip.AddrPort {
	from, length, l4 := headerEthernet+12, 4, headerEthernet+headerIPv4
	if ipv6 {
		from, length, l4 = headerEthernet+8, 16, headerEthernet+headerIPv6
	}
	addr, _ := netip.AddrFromSlice(frame[from : from+length])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(frame[l4:]))
}

// passes sends a packet and wants it to leave as another.
func (l *natLab) passes(in, want packet, verdict uint32) error {
	got, out, err := l.run(ebpf.RunOptions{Data: in.bytes()})
	if err == nil && got != verdict {
		err = fmt.Errorf("verdict %d, want %d", got, verdict)
	}
	return errors.Join(err, checkBytes(out, want.bytes()), wellFormed(out))
}

// replyVerdict is how answers to clients leave.
func (s natService) replyVerdict() uint32 {
	if s.mode == model.ModeNAT {
		return xdpRedirect
	}
	return xdpTX
}

// port is one that the service serves.
func (s natService) port() uint16 {
	if s.ports.Any() {
		return 4711
	}
	return s.ports.First
}

// TestNATBothWays has a conversation with every VIP that translates: what each end
// sends reaches the other under the right name, and checksums are right.
func TestNATBothWays(t *testing.T) {
	l := newNATLab(t)
	for _, s := range natServices() {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			t.Run(s.vip(protocol), func(t *testing.T) {
				c, err := l.begin(s, protocol, 40000, s.port())
				if err != nil {
					t.Fatal(err)
				}
				for _, step := range []struct {
					name    string
					forth   bool
					flags   uint8
					data    int
					verdict uint32
				}{
					{"syn ack", false, flagSYN | flagACK, 0, s.replyVerdict()},
					{"ack", true, flagACK, 0, xdpTX},
					{"request", true, flagACK | flagPSH, 501, xdpTX},
					{"answer", false, flagACK, 1400, s.replyVerdict()},
					{"fin", true, flagACK | flagFIN, 0, xdpTX},
					{"their fin", false, flagACK | flagFIN, 0, s.replyVerdict()},
					{"last ack", true, flagACK, 0, xdpTX},
				} {
					in, want := c.fromBackend(step.flags, text(step.data)), c.toClient(l, step.flags, text(step.data))
					if step.forth {
						in, want = c.toVIP(step.flags, text(step.data)), c.toBackend(step.flags, text(step.data))
					}
					if err := l.passes(in, want, step.verdict); err != nil {
						t.Errorf("%s: %v", step.name, err)
					}
				}
			})
		}
	}
}

// TestRepliesToOthers: what is not an answer to a client of ours is the kernel's.
func TestRepliesToOthers(t *testing.T) {
	l := newNATLab(t)
	for _, s := range natServices() {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			c, err := l.begin(s, protocol, 40001, s.port())
			if err != nil {
				t.Fatal(err)
			}
			for name, change := range map[string]func(*packet){
				"from another host": func(p *packet) { p.source = p.source.Next() },
				"from another port": func(p *packet) { p.payload = c.carried(c.listens()+1, c.source.Port(), flagACK, nil) },
				"to another port":   func(p *packet) { p.payload = c.carried(c.listens(), c.source.Port()^1, flagACK, nil) },
			} {
				if s.mode == model.ModeNAT && name == "to another port" || s.mode == model.ModeNAT && s.ports.Any() && name == "from another port" ||
					s.mode == model.ModeNAT && s.ports == (model.PortRange{First: 3000, Last: 3999}) && name == "from another port" {
					continue // an answer to another client, or of another port of the VIP
				}
				in := c.fromBackend(flagACK, text(20))
				change(&in)
				if err := l.passes(in, in, xdpPass); err != nil {
					t.Errorf("%s, %s: %v", s.vip(protocol), name, err)
				}
			}
		}
	}
}

// TestTranslationsAreExact: connections that the hash of sessions takes for each other
// are told apart by what stands in the translation.
func TestTranslationsAreExact(t *testing.T) {
	l := newNATLab(t)
	s := natServices()[3]
	a, err := l.begin(s, model.TCP, 40000, portVIP)
	if err != nil {
		t.Fatal(err)
	}
	b := a
	b.client = 50000
	index := l.indexOf(t, a)
	word := sessionWord(hashOf(b.toVIP(flagSYN, nil)), index)
	if !l.addSession(hashOf(b.toVIP(flagSYN, nil)), index) {
		t.Fatal("no room for the session")
	}
	c, err := l.begin(s, model.TCP, 50000, portVIP)
	if err != nil {
		t.Fatal(err)
	}
	if c.source == a.source {
		t.Errorf("both have %s, by the word %#x", a.source, word)
	}
}

// indexOf is that of a conversation's translation.
func (l *natLab) indexOf(t *testing.T, c conversation) uint32 {
	t.Helper()
	number, ok := l.sources.number(c.source.Addr())
	if !ok {
		t.Fatalf("%s is no source", c.source)
	}
	index := number*natPerAddress + uint32(c.source.Port())
	if c.protocol == model.UDP {
		index += natUDP
	}
	if got := unmapped(l.translations.elements[index].Client); got != c.family.client {
		t.Fatalf("translation %d is of %s", index, got)
	}
	if got := bits.ReverseBytes16(uint16(l.translations.elements[index].Ports)); got != c.client {
		t.Fatalf("translation %d is of port %d", index, got)
	}
	return index
}
