package dataplane

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// pursuitEvery is every how many trials the flow that was sent on is pursued.
const pursuitEvery = 4

// pursue tries a trial and, if it was sent on, what follows from it: the same again,
// an ICMP error about it and a fragment of it must go to the same backend.
func (l *fuzzLab) pursue(t trial) error {
	j, err := l.try(t)
	if err != nil || j.backend == (BackendKey{}) || t.number%pursuitEvery != 0 {
		return err
	}
	e := l.oracle.meet(t)
	for what, next := range e.sequels() {
		after, err := l.try(next)
		if err != nil {
			return fmt.Errorf("%s: %w\n%v", what, err, next)
		}
		if after.backend != j.backend {
			return fmt.Errorf("it went to %v, %s ends as %s at %v\n%v", j.backend, what, after.reason, after.backend, next)
		}
	}
	return nil
}

// sequels are packets that must go where this one went.
func (e *encounter) sequels() map[string]trial {
	all := map[string]trial{}
	if e.part != laterFragment {
		all["the same again"] = e.trial
	}
	// A first packet may go unremembered, and of one that names its backend the quote does not tell.
	if e.carriesFlow() && e.part == whole && !e.opens() && !e.vips[0].QUIC {
		t := e.trial
		t.frame, t.metadata = e.asQuoted(), 0
		t.near = min(len(t.frame), firstBuffer)
		all["an ICMP error about it"] = t
	}
	if e.carriesFlow() && e.part == firstFragment {
		t := e.trial
		t.frame = e.asLaterFragment()
		all["a later fragment of it"] = t
	}
	return all
}

// asQuoted is an ICMP error about an answer to the packet, from somebody on its way.
func (e *encounter) asQuoted() []byte {
	f := e.flow()
	back := packet{source: e.destination, destination: e.source, ttl: 9}
	ports := binary.BigEndian.AppendUint32(nil, uint32(f.Destination.Port())<<16|uint32(f.Source.Port()))
	back.payload = raw{e.protocol, append(ports, 0, 0, 0, 9)}
	message := icmp{kind: 3, code: 4, seq: 1400, data: back.ip()}
	from := families()[0]
	if e.ipv6 {
		message.kind, message.code, from = 2, 0, families()[1]
	}
	p := packet{to: balancerMAC(), from: clientMAC(), source: from.foreign, destination: e.destination, ttl: 64, payload: message}
	return p.bytes()
}

// asLaterFragment is the frame with another offset.
func (e *encounter) asLaterFragment() []byte {
	frame := slices.Clone(e.frame())
	if e.ipv6 {
		binary.BigEndian.PutUint16(frame[e.fragmentAt+2:], 185<<3)
	} else {
		binary.BigEndian.PutUint16(frame[e.l3+6:], 185)
	}
	return frame
}
