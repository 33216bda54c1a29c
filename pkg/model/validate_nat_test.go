package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// translated is a VIP of a NAT mode.
func translated(mode Mode, name string, protocol Protocol, pool string, texts ...string) VIP {
	v := VIP{Name: name, Endpoints: endpoints(texts...), Protocol: protocol, Mode: mode, Pool: pool}
	v.Tracking, v.IdleTimeout, v.Affinity, v.Fragments = v.DefaultTracking(), DefaultIdleTimeout, DefaultAffinity(), FragmentsFollow
	return v
}

// nat replaces the VIPs, and gives pools, in which names have backends after "=".
func nat(vips []VIP, pools ...string) func(*State) {
	return func(s *State) {
		*s = State{VIPs: vips}
		for _, text := range pools {
			name, words, _ := strings.Cut(text, "=")
			p := Pool{Name: name, TableSize: MinTableSize, OnAllDown: OnAllDownDrop}
			for word := range strings.SplitSeq(words, " ") {
				p.Backends = append(p.Backends, backend(word))
			}
			s.Pools = append(s.Pools, p)
		}
	}
}

func TestNATRepliesNameTheirEndpoint(t *testing.T) {
	one := func(name, pool string, texts ...string) VIP { return translated(ModeNAT, name, TCP, pool, texts...) }
	udp := func(name, pool string, texts ...string) VIP { return translated(ModeNAT, name, UDP, pool, texts...) }
	for name, change := range map[string]func(*State){
		"port kept":                    nat([]VIP{one("a", "p", "192.0.2.1:80")}, "p=10.0.1.10"),
		"port translated":              nat([]VIP{one("a", "p", "192.0.2.1:80")}, "p=10.0.1.10:8080 10.0.1.11:8081 10.0.1.10:8082"),
		"IPv6":                         nat([]VIP{one("a", "p", "[2001:db8::1]:80")}, "p=[2001:db8:1::10]:8080"),
		"ports of one address kept":    nat([]VIP{one("a", "p", "192.0.2.1:80", "192.0.2.1:443", "192.0.2.1:8000-8100", "192.0.2.1:any")}, "p=10.0.1.10"),
		"VIPs of one address kept":     nat([]VIP{one("a", "p", "192.0.2.1:80"), one("b", "q", "192.0.2.1:any")}, "p=10.0.1.10", "q=10.0.1.10"),
		"two addresses, other ports":   nat([]VIP{one("a", "p", "192.0.2.1:80"), one("b", "p", "192.0.2.2:443")}, "p=10.0.1.10"),
		"two addresses, other ranges":  nat([]VIP{one("a", "p", "192.0.2.1:1-99"), one("b", "p", "192.0.2.2:100-65535")}, "p=10.0.1.10"),
		"two addresses, pools":         nat([]VIP{one("a", "p", "192.0.2.1:any"), one("b", "q", "192.0.2.2:any")}, "p=10.0.1.10", "q=10.0.1.11"),
		"two addresses, backend ports": nat([]VIP{one("a", "p", "192.0.2.1:80"), one("b", "q", "192.0.2.2:80")}, "p=10.0.1.10:8080", "q=10.0.1.10:8081"),
		"two protocols":                nat([]VIP{one("a", "p", "192.0.2.1:53"), udp("b", "p", "192.0.2.2:53")}, "p=10.0.1.10:5353"),
		"same port kept and given":     nat([]VIP{one("a", "p", "192.0.2.1:80")}, "p=10.0.1.10 10.0.1.10:80"),
		"beside another mode": nat([]VIP{one("a", "p", "192.0.2.1:80"), translated(ModeFullNAT, "b", TCP, "p", "192.0.2.2:80"), translated(ModeDSRIPIP, "c", TCP, "q", "192.0.2.3:80")},
			"p=10.0.1.10:8080", "q=10.0.1.10"),
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			change(&s)
			if err := s.Validate(); err != nil {
				t.Errorf("a valid state is refused: %v", err)
			}
		})
	}
}

func invalidNAT() []invalid {
	one := func(name, pool string, texts ...string) VIP { return translated(ModeNAT, name, TCP, pool, texts...) }
	const (
		wayOut = "; give them pools of their own, whose backends have other ports, or use mode fullnat"
		family = "; use mode fullnat, or a VIP and a pool of their own for each"
		many   = "; leave the backend's port out, or use mode fullnat"
		a, b   = `VIP "a": mode nat cannot `, `VIP "b": mode nat cannot `
	)
	return []invalid{
		{"nat between families", nat([]VIP{one("a", "p", "192.0.2.1:80")}, "p=10.0.1.10 2001:db8:1::10 2001:db8:1::11"),
			[]string{a + `translate between IPv4 and IPv6, from 192.0.2.1:80 to backend 2001:db8:1::10 in pool "p"` + family}},
		{"nat between families, the other way", nat([]VIP{one("a", "p", "[2001:db8::1]:80", "[2001:db8::2]:81")}, "p=10.0.1.10:8080"),
			[]string{a + `translate between IPv4 and IPv6, from [2001:db8::1]:80 to backend 10.0.1.10:8080 in pool "p"` + family,
				a + `tell whether 10.0.1.10:8080/tcp replies for [2001:db8::2]:81 or for [2001:db8::1]:80` + wayOut}},
		{"nat of endpoints of two families", nat([]VIP{one("a", "p", "192.0.2.1:80", "[2001:db8::1]:81")}, "p=10.0.1.10"),
			[]string{a + `translate between IPv4 and IPv6, from [2001:db8::1]:81 to backend 10.0.1.10 in pool "p"` + family}},
		{"two addresses of a VIP", nat([]VIP{one("a", "p", "192.0.2.1:80", "192.0.2.2:80")}, "p=10.0.1.10 10.0.1.11"),
			[]string{a + `tell whether 10.0.1.10:80/tcp replies for 192.0.2.2:80 or for 192.0.2.1:80` + wayOut}},
		{"two addresses over one pool", nat([]VIP{one("a", "p", "192.0.2.1:80"), one("b", "p", "192.0.2.2:80")}, "p=10.0.1.10 10.0.1.11"),
			[]string{b + `tell whether 10.0.1.10:80/tcp replies for 192.0.2.2:80 or for 192.0.2.1:80 of VIP "a"` + wayOut}},
		{"two VIPs on a backend port", nat([]VIP{one("a", "p", "192.0.2.1:80"), one("b", "q", "192.0.2.1:81")}, "p=10.0.1.9 10.0.1.10:8080", "q=10.0.1.10:8080"),
			[]string{b + `tell whether 10.0.1.10:8080/tcp replies for 192.0.2.1:81 or for 192.0.2.1:80 of VIP "a"` + wayOut}},
		{"two ports of a VIP on a backend port", nat([]VIP{one("a", "p", "192.0.2.1:80", "192.0.2.1:443")}, "p=10.0.1.10:8080"),
			[]string{a + `tell whether 10.0.1.10:8080/tcp replies for 192.0.2.1:443 or for 192.0.2.1:80` + wayOut}},
		{"range to a backend port", nat([]VIP{one("a", "p", "192.0.2.1:80-90")}, "p=10.0.1.10:8080 10.0.1.11:8080"),
			[]string{a + `tell which port of 192.0.2.1:80-90/tcp a reply of backend 10.0.1.10:8080 in pool "p" is from` + many}},
		{"any to a backend port", nat([]VIP{one("a", "p", "192.0.2.1:any")}, "p=10.0.1.10 10.0.1.11:8080"),
			[]string{a + `tell which port of 192.0.2.1:any/tcp a reply of backend 10.0.1.11:8080 in pool "p" is from` + many}},
		{"ranges of two addresses overlap", nat([]VIP{one("a", "p", "192.0.2.1:80-90"), one("b", "p", "192.0.2.2:90-99")}, "p=10.0.1.10"),
			[]string{b + `tell whether 10.0.1.10:90/tcp replies for 192.0.2.2:90-99 or for 192.0.2.1:80-90 of VIP "a"` + wayOut}},
		{"a port beside any of another address", nat([]VIP{one("a", "p", "192.0.2.1:any"), one("b", "q", "192.0.2.2:80")}, "p=10.0.1.10", "q=10.0.1.10"),
			[]string{b + `tell whether 10.0.1.10:80/tcp replies for 192.0.2.2:80 or for 192.0.2.1:any of VIP "a"` + wayOut}},
		{"a backend port beside any of another address", nat([]VIP{one("a", "p", "192.0.2.1:any"), one("b", "q", "192.0.2.2:80")}, "p=10.0.1.10", "q=10.0.1.10:8080"),
			[]string{b + `tell whether 10.0.1.10:8080/tcp replies for 192.0.2.2:80 or for 192.0.2.1:any of VIP "a"` + wayOut}},
		{"a backend port beside any of the same address", nat([]VIP{one("a", "p", "192.0.2.1:any"), one("b", "q", "192.0.2.1:80")}, "p=10.0.1.10", "q=10.0.1.10:8080"),
			[]string{b + `tell whether 10.0.1.10:8080/tcp replies for 192.0.2.1:80 or for 192.0.2.1:any of VIP "a"` + wayOut}},
		{"any of two addresses behind a range of one", nat([]VIP{one("a", "p", "192.0.2.1:1-65535", "192.0.2.1:80"), one("b", "p", "192.0.2.2:any")}, "p=10.0.1.10"),
			[]string{b + `tell whether 10.0.1.10:1/tcp replies for 192.0.2.2:any or for 192.0.2.1:1-65535 of VIP "a"` + wayOut}},
	}
}

func invalidFullNAT() []invalid {
	with := func(change func(*VIP)) func(*State) {
		v := translated(ModeFullNAT, "a", TCP, "p", "192.0.2.1:80")
		change(&v)
		return nat([]VIP{v}, "p=10.0.1.10")
	}
	const tracking = `VIP "a", tracking: mode fullnat remembers every connection, with the source port that it gave it, so %s is not possible; use always`
	return []invalid{
		{"fullnat in flux", with(func(v *VIP) { v.Tracking = TrackingFlux }), []string{fmt.Sprintf(tracking, "flux")}},
		{"fullnat that remembers nothing", with(func(v *VIP) { v.Tracking = TrackingNone }), []string{fmt.Sprintf(tracking, "none")}},
		{"fullnat of early fragments", with(func(v *VIP) { v.Fragments = FragmentsHash }),
			[]string{`VIP "a", fragments: mode fullnat cannot translate a fragment that comes before the one with the ports, so hash is not possible; use follow, or mode nat`}},
	}
}

func invalidSYNCookies() []invalid {
	with := func(mode Mode, protocol Protocol, rate uint32) func(*State) {
		v := translated(mode, "a", protocol, "p", "192.0.2.1:80")
		v.SYNCookies = rate
		return nat([]VIP{v}, "p=10.0.1.10")
	}
	return []invalid{
		{"cookies of udp", with(ModeFullNAT, UDP, 1), []string{`VIP "a", syn_cookies: only tcp has SYNs, this is udp; set it to 0`}},
		{"cookies of a tunnel", with(ModeDSRGUE, TCP, 1),
			[]string{`VIP "a", syn_cookies: mode dsr-gue does not see what backends answer, so the balancer cannot answer for them; use mode nat or fullnat, or 0`}},
		{"cookies above a rate that is too high", with(ModeNAT, TCP, MaxSYNRate+1),
			[]string{`VIP "a", syn_cookies: 10000001 is out of range 1 to 10000000, or 0 to let all SYNs through`}},
	}
}

func TestFullNATTakesAnything(t *testing.T) {
	quic := translated(ModeFullNAT, "c", UDP, "p", "192.0.2.3:443")
	quic.QUIC = true
	hashed := translated(ModeNAT, "d", TCP, "q", "192.0.2.4:80")
	hashed.Fragments, hashed.Tracking = FragmentsHash, TrackingNone
	s := State{}
	nat([]VIP{
		translated(ModeFullNAT, "a", TCP, "p", "192.0.2.1:any", "192.0.2.2:80", "[2001:db8::1]:80-90"),
		translated(ModeFullNAT, "b", TCP, "p", "[2001:db8::2]:443"), quic, hashed,
	}, "p=10.0.1.10 10.0.1.10:8080 2001:db8:1::10", "q=10.0.1.10:8080")(&s)
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

// What replies says agrees with trying every port.
func TestRepliesAgainstAllPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vips := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) VIP {
			v := VIP{Protocol: TCP, Mode: ModeNAT, Pool: rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pool")}
			v.Endpoints = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Endpoint {
				first := rapid.Uint16Range(1, 6).Draw(t, "first")
				return Endpoint{address(rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2"}).Draw(t, "address")), PortRange{first, first + rapid.Uint16Range(0, 2).Draw(t, "more")}}
			}), 1, 2).Draw(t, "endpoints")
			return v
		}), 1, 3).Draw(t, "VIPs")
		pools := map[string]*Pool{}
		for _, name := range []string{"p", "q"} {
			pools[name] = &Pool{Name: name}
			for _, port := range rapid.SliceOfN(rapid.Uint16Range(0, 4), 1, 2).Draw(t, name) {
				pools[name].Backends = append(pools[name].Backends, Backend{BackendID: BackendID{address("10.0.1.10"), port}})
			}
		}
		v := &validator{}
		v.replies(vips, pools)
		if want := someReplyIsAmbiguous(vips, pools); want != (len(v.errs) > 0) {
			t.Fatalf("%+v over %+v, %+v: ambiguous is %v, said is %v", vips, pools["p"], pools["q"], want, v.errs)
		}
	})
}

// someReplyIsAmbiguous sends a packet to every port of every endpoint, and notes what
// the reply must become.
func someReplyIsAmbiguous(vips []VIP, pools map[string]*Pool) bool {
	names := map[uint16][]Endpoint{}
	for _, vip := range vips {
		for _, e := range vip.Endpoints {
			for port := e.Ports.First; port <= e.Ports.Last; port++ {
				for _, b := range pools[vip.Pool].Backends {
					from := b.Port
					if from == 0 {
						from = port
					}
					names[from] = append(names[from], Endpoint{e.Address, Port(port)})
				}
			}
		}
	}
	for _, all := range names {
		if slices.ContainsFunc(all, func(e Endpoint) bool { return e != all[0] }) {
			return true
		}
	}
	return false
}

// Backends that are in the same pools are looked at once: else this would take long.
func TestRepliesOfMany(t *testing.T) {
	vip := VIP{Name: "a", Protocol: TCP, Mode: ModeNAT, Pool: "p"}
	for port := range MaxEndpoints {
		vip.Endpoints = append(vip.Endpoints, Endpoint{address("192.0.2.1"), Port(uint16(1 + port))})
	}
	p := &Pool{Name: "p", Backends: many(MaxBackends)}
	v := &validator{}
	v.vipAndPool("", &vip, map[string]*Pool{"p": p})
	v.replies([]VIP{vip}, map[string]*Pool{"p": p})
	if len(v.errs) > 0 {
		t.Error(v.errs)
	}
}

// TestLimitsOfBackends: they are refused where connections leave no trace, of the first
// backend that has one.
func TestLimitsOfBackends(t *testing.T) {
	const reason = `VIP "a", tracking: backend 10.0.1.11 in pool "p" has max_connections 20, and tracking %s remembers no connection of a settled slot, so they cannot be counted; use tracking always or mode fullnat, or set the backend's max_connections to 0`
	for _, row := range []struct {
		mode     Mode
		tracking Tracking
		limit    uint32
		refused  bool
	}{
		{ModeDSRIPIP, TrackingAlways, 20, false},
		{ModeNAT, TrackingAlways, 20, false},
		{ModeFullNAT, TrackingAlways, 20, false},
		{ModeDSRL2, TrackingFlux, 20, true},
		{ModeDSRGUE, TrackingNone, 20, true},
		{ModeNAT, TrackingFlux, 20, true},
		{ModeNAT, TrackingFlux, 0, false},
	} {
		v := translated(row.mode, "a", TCP, "p", "192.0.2.1:80")
		v.Tracking = row.tracking
		var s State
		nat([]VIP{v}, "p=10.0.1.10 10.0.1.11")(&s)
		s.Pools[0].Backends[1].MaxConnections = row.limit
		err := s.Validate()
		if want := fmt.Sprintf(reason, row.tracking); row.refused != (err != nil) || row.refused && err.Error() != want {
			t.Errorf("%s, tracking %s, limit %d: %v", row.mode, row.tracking, row.limit, err)
		}
	}
}
