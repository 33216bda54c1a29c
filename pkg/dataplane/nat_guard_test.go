package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// guardedNATLab is a lab whose VIPs deny a source, or by way of control do not.
func guardedNATLab(t *testing.T, guarded bool) *natLab {
	l := newNATLab(t)
	if !guarded {
		return l
	}
	state := natState(natServices())
	for i := range state.VIPs {
		state.VIPs[i].Sources = model.Sources{Deny: "bad"}
	}
	state.SourceLists = []model.SourceList{newList(t, "bad", []netip.Prefix{
		netip.PrefixFrom(ipv4().bad(), 32), netip.PrefixFrom(ipv6().bad(), 128),
	})}
	if err := l.do(func() error { return l.Apply(state) }); err != nil {
		t.Fatal(err)
	}
	return l
}

// deniedForms are packets of a denied client, or about one, in every form that the
// programs which translate look at.
func deniedForms(s natService) map[string][]byte {
	f := s.family
	to := func(carried payload) packet {
		p := from(f.packet(carried), f.bad())
		p.destination = s.address
		return p
	}
	parts := split(to(udp{from: 4001, to: s.port(), data: text(100)}), 0x77000001, nil, 64)
	about := f.reply(tcp{from: s.port(), to: 4000, flags: flagACK, data: text(40)})
	about.source, about.destination = s.address, f.bad()
	trouble := f.reports(f.anyError(), about, 100)
	trouble.destination = s.address
	return map[string][]byte{
		"tcp":                 to(tcp{from: 4000, to: s.port(), flags: flagSYN}).bytes(),
		"udp":                 to(udp{from: 4000, to: s.port(), data: text(20)}).bytes(),
		"first fragment":      parts[0].bytes(),
		"error about a reply": trouble.bytes(),
	}
}

// TestGuardsOfNAT: what lists deny reaches no VIP that translates, in whatever form,
// and begins no connection; without the list it does.
func TestGuardsOfNAT(t *testing.T) {
	t.Parallel()
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%t", guarded), func(t *testing.T) {
			l := guardedNATLab(t, guarded)
			for _, s := range natServices() {
				for name, frame := range deniedForms(s) {
					before := l.count(t, "drop_denied")
					verdict, _, err := l.run(ebpf.RunOptions{Data: frame})
					if err != nil {
						t.Fatal(err)
					}
					denied := l.count(t, "drop_denied") == before+1 && verdict == xdpDrop
					if denied != guarded {
						t.Errorf("%s, %s: denied %t, verdict %d", s.name, name, denied, verdict)
					}
				}
			}
			events, err := l.FlowEvents()
			if err != nil {
				t.Fatal(err)
			}
			if begun := events.Opened > 0; begun == guarded {
				t.Errorf("%d connections have begun", events.Opened)
			}
		})
	}
}
