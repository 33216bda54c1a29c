package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// TestNATSums sends segments and datagrams with every checksum that there is: they leave
// with the right one, in all modes, both ways.
func TestNATSums(t *testing.T) {
	t.Parallel()
	l := newNATTable(t, natSetting{options: tableOptions()})
	for _, f := range families() {
		for _, s := range l.every(f, "") {
			for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
				t.Run(s.vip(protocol), func(t *testing.T) {
					c := l.talk(s, protocol)
					ask, answer := c.ask(flagACK, []byte{0, 0, 1, 2}), c.answer(flagACK, []byte{0, 0, 1, 2})
					if err := l.do(func() error {
						return errors.Join(l.allSums(ask, c.asked(ask), nil), l.allSums(answer, l.answered(c, answer), nil))
					}); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestNATSumsNotice is the control: one that is wrong must be noticed.
func TestNATSumsNotice(t *testing.T) {
	l := newNATTable(t, natSetting{options: tableOptions()})
	c := l.talk(l.at(ipv4(), "fullnat", ""), model.TCP)
	ask := c.ask(flagACK, []byte{0, 0, 1, 2})
	spoil := func(frame []byte) {
		at := ask.l4() + 16
		if sum := binary.BigEndian.Uint16(frame[at:]); sum == 0xfffe || sum == 0 {
			frame[at] ^= 0x80
		}
	}
	if err := l.do(func() error { return l.allSums(ask, c.asked(ask), spoil) }); err == nil {
		t.Error("two wrong ones of 65,536 are not noticed")
	}
}

// allSums sends a packet with every value of a word of its data, and wants it to leave as
// another with the same. What spoils does so before that is looked at.
func (l *natTable) allSums(in, out packet, spoil func([]byte)) error {
	frame, want := in.bytes(), out.bytes()
	length := len(in.payload.bytes(in.source, in.destination))
	at, data := 16, headerTCP
	if in.payload.protocol(in.ipv6()) == uint8(model.UDP) {
		at, data = 6, headerUDP
	}
	for word := range 1 << 16 {
		for _, side := range []struct {
			frame []byte
			packet
		}{{frame, in}, {want, out}} {
			body := side.frame[side.l4() : side.l4()+length]
			binary.BigEndian.PutUint16(body[data:], uint16(word))
			binary.BigEndian.PutUint16(body[at:], 0)
			sum := ^onesSum(pseudoHeader(side.source, side.destination, side.payload.protocol(side.ipv6()), length), body)
			if at == 6 {
				sum = nonZero(sum)
			}
			binary.BigEndian.PutUint16(body[at:], sum)
		}
		_, got, err := send(l.Plane, frame)
		if err != nil {
			return err
		}
		if spoil != nil {
			spoil(got)
		}
		if err := checkBytes(got, want); err != nil {
			return fmt.Errorf("with %#04x: %w", word, err)
		}
	}
	return nil
}
