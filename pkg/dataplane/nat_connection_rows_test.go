package dataplane

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// natConnectionRows are packets whose connection's past matters.
func natConnectionRows(t *natTable, f family) []row {
	rows := append(againRows(t, f), natClampRows(t, f)...)
	return append(rows, natQUICRows(t, f)...)
}

// againRows begin a connection again from the same port, or do not.
func againRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, "")[1:] {
		for name, ended := range map[string]func(talk) [][]byte{
			"fin": func(c talk) [][]byte { return [][]byte{c.ask(flagFIN|flagACK, nil).bytes()} },
			"rst": func(c talk) [][]byte { return [][]byte{c.ask(flagRST, nil).bytes()} },
			"their rst": func(c talk) [][]byte {
				return [][]byte{c.answer(flagRST|flagACK, nil).bytes()}
			},
			"fin of both": func(c talk) [][]byte {
				return [][]byte{c.ask(flagFIN|flagACK, nil).bytes(), c.answer(flagFIN|flagACK, nil).bytes()}
			},
		} {
			c := t.talk(s, model.TCP)
			before := ended(c)
			r := c.forth("again/last ack after "+name, c.ask(flagACK, nil))
			r.before = before
			rows = append(rows, r)
			back := t.back("again/their last ack after "+name, c, c.answer(flagACK, nil))
			rows = append(rows, back)
			r = t.first("again/syn after "+name, c, c.ask(flagSYN, nil))
			rows = append(rows, r)
			former := t.talk(s, model.TCP)
			r = former.unnoticed("again/what was before after "+name, "pass_not_vip", former.answer(flagACK, nil))
			r.arrange = t.beginsElsewhere(former, ended(former))
			rows = append(rows, r)
		}
		c := t.talk(s, model.TCP)
		r := c.forth("again/syn after their fin alone", c.ask(flagSYN, nil))
		r.before = [][]byte{c.answer(flagFIN|flagACK, nil).bytes()}
		rows = append(rows, r)
		c = t.talk(s, model.UDP)
		rows = append(rows, c.forth("again/udp", c.ask(0, nil)))
	}
	return rows
}

// beginsElsewhere ends a connection and begins another from the same port until that has
// another source.
func (t *natTable) beginsElsewhere(c talk, ended [][]byte) func() error {
	return func() error {
		for range 100 {
			for _, frame := range append(ended, c.ask(flagSYN, nil).bytes()) {
				_, out, err := t.run(ebpf.RunOptions{Data: frame})
				if err != nil {
					return err
				}
				if frame[len(frame)-headerTCP+13] == flagSYN && t.sourceIn(out) != c.source {
					return nil
				}
			}
			ended = [][]byte{c.ask(flagRST, nil).bytes()}
		}
		return errors.New("a hundred connections, all with one source")
	}
}

// natClampRows are SYNs to VIPs that grant a maximum segment size.
func natClampRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, kindClamped) {
		options := clampable()
		for name, same := range unclampable() {
			options = append(options, clamped{"nothing: " + name, same, same})
		}
		for _, o := range options {
			c := t.newTalk(s, model.TCP)
			syn := func(c talk, options []byte) packet {
				return c.request(tcp{from: c.client, to: c.vip, seq: 1, flags: flagSYN, options: options, data: text(3)})
			}
			r := t.first("mss/"+o.name, c, syn(c, o.in))
			if r.out = c.asked(syn(c, o.out)).bytes(); r.expect != nil {
				r.expect = func(out []byte) []byte {
					c.source = t.sourceIn(out)
					return c.asked(syn(c, o.out)).bytes()
				}
			}
			rows = append(rows, r)
			again := t.talk(s, model.TCP)
			r = again.forth("mss/"+o.name+", again", syn(again, o.in))
			r.out = again.asked(syn(again, o.out)).bytes()
			rows = append(rows, r)
		}
		c := t.talk(s, model.TCP)
		in := c.request(tcp{from: c.client, to: c.vip, flags: flagACK, options: mss(1460)})
		rows = append(rows, c.forth("mss/not of a syn", in))
		in = c.response(tcp{from: c.listens(), to: c.source.Port(), flags: flagSYN | flagACK, options: mss(1460)})
		rows = append(rows, t.back("mss/not of the backend", c, in))
	}
	return rows
}

// natQUICRows are of VIPs that read connection IDs.
func natQUICRows(t *natTable, f family) []row {
	var rows []row
	for _, s := range t.every(f, kindQUIC) {
		heads := quicSeeds()
		for i, name := range []string{
			"short header", "an initial to its own ID", "a handshake", "an initial of version 2 to its own ID", "another version",
			"short header with a long ID", "initial", "handshake with a long ID", "initial of version 2", "another version with a long ID",
		} {
			opens := slices.Contains([]int{4, 6, 8, 9}, i)
			c := t.newTalk(s, model.UDP)
			r := t.first("quic/"+name, c, c.ask(0, heads[i]))
			r.opener = opens || s.mode == model.ModeFullNAT
			rows = append(rows, r)
			c = t.talk(s, model.UDP)
			r = c.forth("quic/"+name+" goes on", c.ask(0, heads[i]))
			r.opener = opens && s.mode == model.ModeNAT
			rows = append(rows, r, t.back("quic/"+name+" is answered", c, c.answer(0, heads[i])))
		}
	}
	return rows
}
