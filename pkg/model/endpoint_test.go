package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPortRange(t *testing.T) {
	for word, want := range map[string]struct {
		ports       PortRange
		any, single bool
		in, out     uint16
	}{
		"80":        {Port(80), false, true, 80, 81},
		"8000-8100": {PortRange{8000, 8100}, false, false, 8100, 8101},
		"1-65535":   {PortRange{1, 65535}, false, false, 65535, 0},
		"any":       {PortRange{}, true, false, 443, 0},
	} {
		got, err := ParsePortRange(word)
		if err != nil || got != want.ports || got.String() != word {
			t.Errorf("%q is read as %v, %v", word, got, err)
		}
		if got.Any() != want.any || got.Single() != want.single || !got.Contains(want.in) || !want.any && got.Contains(want.out) {
			t.Errorf("%q: any %v, single %v, contains %d: %v, contains %d: %v", word, got.Any(), got.Single(), want.in, got.Contains(want.in), want.out, got.Contains(want.out))
		}
	}
	if got, err := ParsePortRange("80-80"); err != nil || got != Port(80) {
		t.Errorf("a range of one port is %v, %v", got, err)
	}
	for _, word := range []string{"", "0", "0-0", "0-80", "65536", "1-65536", "http", "-", "-80", "80-", "+80", "80-90-100", "1.5", "Any", "80,443", " 80"} {
		want := fmt.Sprintf("%q is not a port: want 1 to 65535, a range such as 8000-8100, or any", word)
		if got, err := ParsePortRange(word); err == nil || err.Error() != want {
			t.Errorf("%q is read as %v, %v", word, got, err)
		}
	}
	if _, err := ParsePortRange("90-80"); err == nil || err.Error() != `the port range "90-80" ends before it begins` {
		t.Errorf("a range backwards: %v", err)
	}
}

func anyEndpoint() *rapid.Generator[Endpoint] {
	return rapid.Custom(func(t *rapid.T) Endpoint {
		e := Endpoint{Address: anyAddress().Draw(t, "address")}
		if rapid.Bool().Draw(t, "ports") {
			e.Ports.First = rapid.Uint16Min(1).Draw(t, "first")
			e.Ports.Last = rapid.Uint16Min(e.Ports.First).Draw(t, "last")
		}
		return e
	})
}

func TestEndpointRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEndpoint().Draw(t, "endpoint")
		if got, err := ParseEndpoint(e.String()); err != nil || got != e {
			t.Fatalf("%#v is printed as %q and read as %#v, %v", e, e, got, err)
		}
	})
}

func TestParseEndpoint(t *testing.T) {
	for word, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1:80", "192.0.2.1:8000-8100": "192.0.2.1:8000-8100", "192.0.2.1:any": "192.0.2.1:any",
		"[2001:DB8::1]:443": "[2001:db8::1]:443", "[2001:db8::1]:any": "[2001:db8::1]:any", "[::ffff:192.0.2.1]:80": "[::ffff:192.0.2.1]:80",
	} {
		if got, err := ParseEndpoint(word); err != nil || got.String() != want {
			t.Errorf("%q is read as %q, %v; want %q", word, got, err, want)
		}
	}
	for _, word := range []string{
		"", ":80", "80", "192.0.2.1", "192.0.2:80", "web:80", "2001:db8::1", "2001:db8::1:80", "[2001:db8::1]", "[192.0.2.1]:80", "[192.0.2.1:80", "192.0.2.1]:80",
		"[2001:db8::1:80", "2001:db8::1]:80", "[[2001:db8::1]]:80", "192.0.2.1/32:80",
	} {
		want := fmt.Sprintf("%q is not an endpoint: want an address and a port, a range of ports or any, such as 192.0.2.10:80, 192.0.2.10:8000-8100 or [2001:db8::10]:any", word)
		if got, err := ParseEndpoint(word); err == nil || err.Error() != want {
			t.Errorf("%q is read as %v, %v", word, got, err)
		}
	}
	if _, err := ParseEndpoint("192.0.2.1:0"); err == nil || err.Error() != `endpoint "192.0.2.1:0": "0" is not a port: want 1 to 65535, a range such as 8000-8100, or any` {
		t.Errorf("port 0: %v", err)
	}
}

// The order of endpoints is total and agrees with identity.
func TestEndpointOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) Endpoint {
			first := rapid.Uint16Range(0, 2).Draw(t, label+" first")
			return Endpoint{netip.AddrFrom4([4]byte{192, 0, 2, rapid.Uint8Range(0, 1).Draw(t, label)}), PortRange{first, first + rapid.Uint16Range(0, 1).Draw(t, label+" more")}}
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("%v against %v is %d, the other way %d", a, b, a.Compare(b), b.Compare(a))
		}
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
			t.Fatalf("%v, %v, %v are not in order", a, b, c)
		}
	})
}

func TestService(t *testing.T) {
	for want, vip := range map[string]VIP{
		"192.0.2.1:80/tcp":                 {Endpoints: endpoints("192.0.2.1:80"), Protocol: TCP},
		"192.0.2.1:any/udp":                {Endpoints: endpoints("192.0.2.1:any"), Protocol: UDP},
		"[2001:db8::1]:443-444/udp":        {Endpoints: endpoints("[2001:db8::1]:443-444"), Protocol: UDP},
		"192.0.2.1:80/tcp and 2 more":      {Endpoints: endpoints("192.0.2.1:80", "192.0.2.1:81", "192.0.2.1:82"), Protocol: TCP},
		"no endpoint/tcp":                  {Protocol: TCP},
		"[2001:db8::1]:any/tcp and 1 more": {Endpoints: endpoints("[2001:db8::1]:any", "[2001:db8::2]:any"), Protocol: TCP},
	} {
		if got := vip.Service(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestOnePort(t *testing.T) {
	for want, rows := range map[uint16][][]Endpoint{
		80: {endpoints("192.0.2.1:80"), endpoints("192.0.2.1:80", "[2001:db8::1]:80")},
		0: {nil, endpoints("192.0.2.1:any"), endpoints("192.0.2.1:80-81"), endpoints("192.0.2.1:80", "192.0.2.1:443"),
			endpoints("192.0.2.1:80", "[2001:db8::1]:any"), endpoints("192.0.2.1:any", "192.0.2.1:80")},
	} {
		for _, row := range rows {
			vip := VIP{Endpoints: row}
			if got, one := vip.OnePort(); got != want || one != (want != 0) {
				t.Errorf("%v: %d, %v", row, got, one)
			}
		}
	}
}

func TestDefaultTracking(t *testing.T) {
	for want, vips := range map[Tracking][]VIP{
		TrackingFlux:   {{Protocol: TCP}, {Protocol: UDP, QUIC: true}},
		TrackingAlways: {{Protocol: UDP}},
	} {
		for _, vip := range vips {
			if got := vip.DefaultTracking(); got != want || vip.HasOpeners() != (want == TrackingFlux) {
				t.Errorf("%+v: %s, openers %v", vip, got, vip.HasOpeners())
			}
		}
	}
}

func TestServerID(t *testing.T) {
	for word, want := range map[string]ServerID{
		"0:c4605e": {0, "\xc4\x60\x5e"}, "6:01": {6, "\x01"}, "3:000102030405060708090a0b0c0d0e": {3, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e"},
	} {
		if got, err := ParseServerID(word); err != nil || got != want || got.String() != word {
			t.Errorf("%q is read as %q, %v", word, got, err)
		}
	}
	if got, err := ParseServerID("1:AB"); err != nil || got.String() != "1:ab" {
		t.Errorf("upper case is read as %q, %v", got, err)
	}
	for _, word := range []string{"", "c4605e", ":c4605e", "0:", "7:01", "-1:01", "0:0", "0:0x01", "0:gg", "1:000102030405060708090a0b0c0d0e0f", "256:01", "0:01:02"} {
		want := fmt.Sprintf("%q is not a server ID: want the configuration, 0 to 6, and 1 to 15 bytes in hexadecimal digits, such as 0:c4605e", word)
		if got, err := ParseServerID(word); err == nil || err.Error() != want {
			t.Errorf("%q is read as %v, %v", word, got, err)
		}
	}
}

// Endpoints of which one takes precedence may overlap, within a VIP and between two.
func TestPrecedence(t *testing.T) {
	for _, row := range [][2][]string{
		{{"192.0.2.9:80", "192.0.2.9:80-90", "192.0.2.9:any"}, nil},
		{{"192.0.2.9:any"}, {"192.0.2.9:80", "192.0.2.9:80-90"}},
		{{"192.0.2.9:80-89"}, {"192.0.2.9:90-99", "192.0.2.9:85"}},
		{{"192.0.2.9:80"}, {"[2001:db8::9]:80", "192.0.2.8:80"}},
		{{"192.0.2.9:1-65535"}, {"192.0.2.9:any"}},
	} {
		s := valid()
		vip := s.VIPs[0]
		vip.Name, vip.Endpoints = "a", endpoints(row[0]...)
		s.VIPs = append(s.VIPs, vip)
		if row[1] != nil {
			vip.Name, vip.Endpoints = "b", endpoints(row[1]...)
			s.VIPs = append(s.VIPs, vip)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%v: %v", row, err)
		}
		// The control: the same on the same protocol once more is refused.
		vip.Name = "c"
		s.VIPs = append(s.VIPs, vip)
		if err := s.Validate(); err == nil {
			t.Errorf("control: %v is there twice and nobody minds", vip.Endpoints)
		}
		vip.Protocol = UDP
		s.VIPs[len(s.VIPs)-1] = vip
		if err := s.Validate(); err != nil {
			t.Errorf("%v over another protocol: %v", vip.Endpoints, err)
		}
	}
}

func invalidEndpoints() []invalid {
	on := func(vip int, texts ...string) func(*State) {
		return func(s *State) { s.VIPs[vip].Endpoints = endpoints(texts...) }
	}
	ports := func(first, last uint16) func(*State) {
		return func(s *State) { s.VIPs[1].Endpoints[0].Ports = PortRange{first, last} }
	}
	many := make([]Endpoint, MaxEndpoints+1)
	for i := range many {
		many[i] = Endpoint{address("192.0.2.9"), Port(uint16(1 + i))}
	}
	const port = `VIP "web", ports: %d to %d is no range of ports; want 1 to 65535, the first no higher than the last`
	return []invalid{
		{"no endpoint", func(s *State) { s.VIPs[1].Endpoints = nil }, []string{`VIP "web", endpoints: has none; give at least one address and port`}},
		{"too many endpoints", func(s *State) { s.VIPs[1].Endpoints = many }, []string{`VIP "web", endpoints: has 1025, at most 1024 are possible; a range of ports is one`}},
		{"range backwards", ports(90, 80), []string{fmt.Sprintf(port, 90, 80)}},
		{"range from 0", ports(0, 80), []string{fmt.Sprintf(port, 0, 80)}},
		{"range to 0", ports(80, 0), []string{fmt.Sprintf(port, 80, 0)}},
		{"port twice", on(1, "192.0.2.9:80", "192.0.2.9:80"), []string{`VIP "web", endpoints: 192.0.2.9:80/tcp is given twice`}},
		{"range twice", on(1, "192.0.2.9:80-90", "192.0.2.9:80-90"), []string{`VIP "web", endpoints: 192.0.2.9:80-90/tcp is given twice`}},
		{"any twice", on(1, "192.0.2.9:any", "192.0.2.9:any"), []string{`VIP "web", endpoints: 192.0.2.9:any/tcp is given twice`}},
		{"ranges of a VIP overlap", on(1, "192.0.2.9:80-90", "192.0.2.9:90-99"), []string{`VIP "web", endpoints: 192.0.2.9:90-99/tcp overlaps 192.0.2.9:80-90`}},
		{"ranges of two VIPs overlap", on(1, "192.0.2.2:8100-8200"),
			[]string{`VIP "wide": overlaps VIP "web": 192.0.2.2:8000-8100/tcp, and there 192.0.2.2:8100-8200`}},
		{"range within another", on(1, "192.0.2.2:8001-8002"), []string{`VIP "wide": overlaps VIP "web": 192.0.2.2:8000-8100/tcp, and there 192.0.2.2:8001-8002`}},
		{"one of several ports is taken", on(1, "192.0.2.2:81", "192.0.2.2:80"), []string{`VIP "wide": overlaps VIP "web": both have 192.0.2.2:80/tcp`}},
		{"mapped among others", on(1, "192.0.2.9:80", "[::ffff:192.0.2.9]:80", "[::ffff:192.0.2.9]:81"),
			[]string{`VIP "web", address: ::ffff:192.0.2.9 is IPv4-mapped; write 192.0.2.9`}},
		{"port translation from one of several", func(s *State) { s.VIPs = s.VIPs[4:]; s.web().Backends[0].Port = 80 },
			[]string{`VIP "wide": mode dsr-ipip cannot translate port 8000-8100 to port 80 of backend 10.0.1.10:80 in pool "web"; leave the backend's port out and let it listen on the VIP's, or use mode nat or fullnat`}},
		{"backend at the second address", func(s *State) { s.web().Backends[2].Address = address("2001:db8::2") },
			[]string{`pool "web", backend 2001:db8::2: this is the address of VIP "wide"; a backend needs an address of its own`}},
	}
}

func invalidVIPSettings() []invalid {
	web := func(change func(*VIP)) func(*State) { return func(s *State) { change(&s.VIPs[1]) } }
	affinity := func(scope AffinityScope, v4, v6 uint8) func(*State) {
		return web(func(v *VIP) { v.Affinity = Affinity{scope, v4, v6} })
	}
	return []invalid{
		{"no affinity", affinity(0, 32, 128), []string{`VIP "web", affinity: want flow, source or pool`}},
		{"unknown affinity", affinity(4, 32, 128), []string{`VIP "web", affinity: want flow, source or pool`}},
		{"IPv4 prefix of nothing", affinity(AffinitySource, 0, 128), []string{`VIP "web", affinity: an IPv4 source prefix of 0 bits is out of range 1 to 32`}},
		{"long IPv4 prefix", affinity(AffinitySource, 33, 128), []string{`VIP "web", affinity: an IPv4 source prefix of 33 bits is out of range 1 to 32`}},
		{"IPv6 prefix of nothing", affinity(AffinityPool, 32, 0), []string{`VIP "web", affinity: an IPv6 source prefix of 0 bits is out of range 1 to 128`}},
		{"long IPv6 prefix", affinity(AffinityPool, 32, 129), []string{`VIP "web", affinity: an IPv6 source prefix of 129 bits is out of range 1 to 128`}},
		{"no fragments", web(func(v *VIP) { v.Fragments = 0 }), []string{`VIP "web", fragments: want follow or hash`}},
		{"unknown fragments", web(func(v *VIP) { v.Fragments = 3 }), []string{`VIP "web", fragments: want follow or hash`}},
		{"fragments of one address hashed twice", func(s *State) { s.VIPs[0].Fragments, s.VIPs[1].Fragments = FragmentsHash, FragmentsHash },
			[]string{`VIP "web", fragments: VIP "any" hashes the fragments of 192.0.2.1/tcp already, and a fragment does not tell its port; only one of them may`}},
		{"small MSS", web(func(v *VIP) { v.MSS = MinMSS - 1 }), []string{`VIP "web", mss: 535 is out of range 536 to 65495, or 0 to leave it as it is`}},
		{"large MSS", web(func(v *VIP) { v.MSS = MaxMSS + 1 }), []string{`VIP "web", mss: 65496 is out of range 536 to 65495, or 0 to leave it as it is`}},
		{"MSS of UDP", func(s *State) { s.VIPs[2].MSS = 1400 }, []string{`VIP "web-quic", mss: only tcp has one, this is udp`}},
		{"QUIC over TCP", web(func(v *VIP) { v.QUIC = true }), []string{`VIP "web", quic: QUIC runs over udp, this is tcp`}},
	}
}

// One address may have several VIPs that hash fragments if they differ in protocol.
func TestFragmentsOfTwoProtocols(t *testing.T) {
	s := valid()
	s.VIPs[1].Fragments, s.VIPs[2].Fragments = FragmentsHash, FragmentsHash
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}

func invalidServerIDs() []invalid {
	set := func(backend int, ids ...ServerID) func(*State) {
		return func(s *State) { s.web().Backends[backend].ServerIDs = ids }
	}
	text := func(backend int, ids ...string) func(*State) { return set(backend, serverIDs(ids...)...) }
	const second, third = `pool "web", backend 10.0.1.20, server_id: `, `pool "web", backend 2001:db8::10, server_id: `
	return []invalid{
		{"server ID of another", text(1, "0:c4605e"), []string{second + "0:c4605e is that of backend 10.0.1.10 already"}},
		{"server ID of another length", text(1, "0:c460"), []string{second + "0:c460 has 2 bytes, others of configuration 0 in the pool have 3; give a new length a new configuration"}},
		{"two server IDs of a configuration", text(2, "3:01", "3:02"), []string{third + "has two of configuration 3"}},
		{"server ID twice", text(2, "3:01", "3:01"), []string{third + "has two of configuration 3"}},
		{"configuration out of range", set(2, ServerID{7, "\x01"}), []string{third + "7:01 is out of range: want a configuration of 0 to 6 and 1 to 15 bytes"}},
		{"empty server ID", set(2, ServerID{0, ""}), []string{third + "0: is out of range: want a configuration of 0 to 6 and 1 to 15 bytes"}},
		{"long server ID", set(2, ServerID{2, "0123456789abcdef"}),
			[]string{third + "2:30313233343536373839616263646566 is out of range: want a configuration of 0 to 6 and 1 to 15 bytes"}},
	}
}

// Pools share no configuration: the same server ID may be in both.
func TestServerIDsOfTwoPools(t *testing.T) {
	s := valid()
	s.Pools[0].Backends = slices.Clone(s.web().Backends)
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
}
