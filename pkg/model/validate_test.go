package model

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

func backend(s string) Backend {
	id, err := ParseBackendID(s)
	if err != nil {
		panic(err)
	}
	return Backend{BackendID: id, Weight: DefaultWeight, State: Enabled}
}

func endpoints(texts ...string) []Endpoint {
	var out []Endpoint
	for _, s := range texts {
		e, err := ParseEndpoint(s)
		if err != nil {
			panic(err)
		}
		out = append(out, e)
	}
	return out
}

func serverIDs(texts ...string) []ServerID {
	var out []ServerID
	for _, s := range texts {
		id, err := ParseServerID(s)
		if err != nil {
			panic(err)
		}
		out = append(out, id)
	}
	return out
}

func check(kind CheckType) Check {
	c := Check{Type: kind}.WithDefaults()
	if kind != CheckICMP {
		c.Port = 8080
	}
	return c
}

// valid is a state that uses every field and is in canonical order.
func valid() State {
	request := check(CheckHTTPS)
	request.Host, request.Path, request.Status, request.Body = "example.com:8443", "/ok?deep=1", 204, "fine"
	datagram := check(CheckUDP)
	datagram.Send, datagram.Body = "?", "!"
	s := State{
		VIPs: []VIP{
			{Name: "any", Endpoints: endpoints("192.0.2.1:any"), Protocol: TCP, Mode: ModeDSRIPIP, Pool: "web"},
			{Name: "web", Endpoints: endpoints("192.0.2.1:80"), Protocol: TCP, Mode: ModeDSRL2, Pool: "web", MSS: 1400},
			{Name: "web-quic", Endpoints: endpoints("192.0.2.1:80"), Protocol: UDP, Mode: ModeDSRL2, Pool: "web", QUIC: true},
			{Name: "web6", Endpoints: endpoints("[2001:db8::1]:80"), Protocol: TCP, Mode: ModeDSRGUE, Pool: "web"},
			{Name: "wide", Endpoints: endpoints("192.0.2.2:80", "192.0.2.2:8000-8100", "[2001:db8::2]:any"), Protocol: TCP, Mode: ModeDSRIPIP, Pool: "web"},
		},
		Pools: []Pool{
			{Name: "spare", TableSize: MaxTableSize, OnAllDown: OnAllDownLastKnown},
			{
				Name: "web", TableSize: MinTableSize, OnAllDown: OnAllDownDrop,
				Checks:    []Check{check(CheckHTTP), request, check(CheckICMP), check(CheckTCP), datagram},
				Backends:  []Backend{backend("10.0.1.10"), backend("10.0.1.20"), backend("2001:db8::10")},
				DownGrace: DefaultDownGrace, SlowStart: time.Minute,
			},
		},
	}
	for i := range s.VIPs {
		v := &s.VIPs[i]
		v.Tracking, v.IdleTimeout, v.Affinity, v.Fragments = v.DefaultTracking(), DefaultIdleTimeout, DefaultAffinity(), FragmentsFollow
	}
	s.VIPs[4].Affinity, s.VIPs[4].Fragments = Affinity{AffinityPool, 24, 56}, FragmentsHash
	s.web().Backends[0].ServerIDs = serverIDs("0:c4605e", "6:01")
	s.web().Backends[1].ServerIDs = serverIDs("0:c4605f")
	return s
}

func (s *State) web() *Pool { return &s.Pools[1] }

func TestValid(t *testing.T) {
	for name, change := range map[string]func(*State){
		"as it is":        func(*State) {},
		"empty":           func(s *State) { *s = State{} },
		"weights":         func(s *State) { s.web().Backends[0].Weight, s.web().Backends[1].Weight = 0, MaxWeight },
		"port of the VIP": func(s *State) { s.VIPs = s.VIPs[1:2]; s.web().Backends[0].Port = 80 },
		"port for any":    func(s *State) { s.VIPs[1].Endpoints = endpoints("192.0.2.1:443"); s.web().Checks[0].Port = 9 },
		"port of the backends": func(s *State) {
			s.VIPs = nil
			s.web().Backends = []Backend{backend("10.0.1.10:81")}
			s.web().Checks[0].Port = 0
		},
		"check at its bounds": func(s *State) {
			c := &s.web().Checks[0]
			c.Interval, c.Timeout, c.Rise, c.Fall, c.Jitter = MinCheckInterval, MinCheckInterval, MaxCheckCount, 1, 50
		},
		"host of IPv6": func(s *State) { s.web().Checks[0].Host = "[2001:db8::1]:8080" },
		"host of IPv4": func(s *State) { s.web().Checks[0].Host = "10.0.1.10" },
		"escaped path": func(s *State) { s.web().Checks[0].Path = "/a%20b?c=%25" },
		"full table":   func(s *State) { s.web().Backends = many(12) },
	} {
		t.Run(name, func(t *testing.T) {
			s := valid()
			change(&s)
			if err := s.Validate(); err != nil {
				t.Errorf("a valid state is refused: %v", err)
			}
		})
	}
}

// many returns backends without ports.
func many(n int) []Backend {
	out := make([]Backend, n)
	addr := address("10.1.0.0")
	for i := range out {
		addr = addr.Next()
		out[i] = Backend{BackendID: BackendID{Address: addr}, Weight: 1, State: Enabled}
	}
	return out
}

func TestInvalid(t *testing.T) {
	for _, row := range slices.Concat(invalidVIPs(), invalidEndpoints(), invalidVIPSettings(), invalidServerIDs(), invalidNAT(), invalidFullNAT(), invalidSYNCookies(), invalidPools(), invalidBackends(), invalidChecks(), invalidRequests()) {
		t.Run(row.name, func(t *testing.T) {
			s := valid()
			row.change(&s)
			for range 20 { // the order of messages must not be that of a map
				got := strings.Split(fmt.Sprint(s.Validate()), "\n")
				if !slices.Equal(got, row.want) {
					t.Fatalf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(row.want, "\n\t"))
				}
			}
			var field *FieldError
			if !errors.As(s.Validate(), &field) || field.Path == "" || field.Reason == "" {
				t.Errorf("the error is no FieldError with path and reason: %#v", field)
			}
		})
	}
}

// invalid is one way to spoil a valid state, and all that is said of it.
type invalid struct {
	name   string
	change func(*State)
	want   []string
}

const wantName = " is not a name: want 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"

func invalidVIPs() []invalid {
	long := strings.Repeat("a", 64)
	rows := []invalid{
		{"no VIP name", func(s *State) { s.VIPs[1].Name = "" }, []string{`VIP "", name: ""` + wantName}},
		{"long VIP name", func(s *State) { s.VIPs[1].Name = long }, []string{`VIP "` + long + `", name: "` + long + `"` + wantName}},
		{"VIP name with a line break", func(s *State) { s.VIPs[1].Name = "a\n" }, []string{`VIP "a\n", name: "a\n"` + wantName}},
		{"VIP name that looks like an option", func(s *State) { s.VIPs[1].Name = "-a" }, []string{`VIP "-a", name: "-a"` + wantName}},
		{"VIP name twice", func(s *State) { s.VIPs[1].Name = "any" }, []string{`VIP "any": this name is taken by another VIP`}},
		{"overlapping VIPs", func(s *State) { s.VIPs[1].Endpoints = endpoints("192.0.2.1:any") }, []string{`VIP "web": overlaps VIP "any": both have 192.0.2.1:any/tcp`}},
		{"overlapping VIPs with a port", func(s *State) { s.VIPs[2].Protocol, s.VIPs[2].QUIC = TCP, false }, []string{`VIP "web-quic": overlaps VIP "web": both have 192.0.2.1:80/tcp`}},
		{"no protocol", func(s *State) { s.VIPs[1].Protocol, s.VIPs[1].MSS = 0, 0 }, []string{`VIP "web", protocol: want tcp or udp`}},
		{"unknown protocol", func(s *State) { s.VIPs[1].Protocol, s.VIPs[1].MSS = 132, 0 }, []string{`VIP "web", protocol: want tcp or udp`}},
		{"no mode", func(s *State) { s.VIPs[1].Mode = 0 }, []string{`VIP "web", mode: want dsr-l2, dsr-ipip, dsr-gue, nat or fullnat`}},
		{"unknown mode", func(s *State) { s.VIPs[1].Mode = 6 }, []string{`VIP "web", mode: want dsr-l2, dsr-ipip, dsr-gue, nat or fullnat`}},
		{"no pool named", func(s *State) { s.VIPs[1].Pool = "" }, []string{`VIP "web", pool: no pool ""`}},
		{"unknown pool", func(s *State) { s.VIPs[1].Pool = "wbe" }, []string{`VIP "web", pool: no pool "wbe"; did you mean web?`}},
		{"pool without backends", func(s *State) { s.VIPs[1].Pool = "spare" },
			[]string{`VIP "web", pool: pool "spare" has no backends; add one first: steelyard backend add spare ADDRESS`}},
		{"port translation under dsr-l2", func(s *State) { s.VIPs = s.VIPs[1:2]; s.web().Backends[0].Port = 8080 },
			[]string{`VIP "web": mode dsr-l2 cannot translate port 80 to port 8080 of backend 10.0.1.10:8080 in pool "web"; leave the backend's port out and let it listen on the VIP's, or use mode nat or fullnat`}},
		{"port translation under dsr-gue", func(s *State) { s.VIPs = s.VIPs[3:4]; s.web().Backends[0].Port = 8080 },
			[]string{`VIP "web6": mode dsr-gue cannot translate port 80 to port 8080 of backend 10.0.1.10:8080 in pool "web"; leave the backend's port out and let it listen on the VIP's, or use mode nat or fullnat`}},
		{"two VIPs without an address", func(s *State) {
			s.VIPs[0].Endpoints[0].Address, s.VIPs[1].Endpoints[0].Address = netip.Addr{}, netip.Addr{}
		},
			[]string{`VIP "any", address: is missing`, `VIP "web", address: is missing`}},
		{"several mistakes", func(s *State) { s.VIPs[1].Protocol, s.VIPs[1].MSS, s.VIPs[1].Mode, s.VIPs[3].Pool = 0, 0, 0, "" },
			[]string{`VIP "web", protocol: want tcp or udp`, `VIP "web", mode: want dsr-l2, dsr-ipip, dsr-gue, nat or fullnat`, `VIP "web6", pool: no pool ""`}},
	}
	for a, reason := range badAddresses() {
		rows = append(rows, invalid{
			"VIP address " + a.String(),
			func(s *State) { s.VIPs[1].Endpoints[0].Address = a },
			[]string{`VIP "web", address: ` + reason},
		})
	}
	return rows
}

func badAddresses() map[netip.Addr]string {
	return map[netip.Addr]string{
		{}:                          "is missing",
		address("::ffff:192.0.2.7"): "::ffff:192.0.2.7 is IPv4-mapped; write 192.0.2.7",
		address("fe80::1%eth0"):     "fe80::1%eth0 has a zone; use an address without one",
		address("0.0.0.0"):          "0.0.0.0 is the unspecified address",
		address("::"):               ":: is the unspecified address",
		address("224.0.0.1"):        "224.0.0.1 is a multicast address",
		address("239.255.255.255"):  "239.255.255.255 is a multicast address",
		address("ff02::1"):          "ff02::1 is a multicast address",
		address("127.0.0.1"):        "127.0.0.1 is a loopback address",
		address("127.255.255.254"):  "127.255.255.254 is a loopback address",
		address("::1"):              "::1 is a loopback address",
		address("169.254.0.1"):      "169.254.0.1 is a link-local address",
		address("fe80::1"):          "fe80::1 is a link-local address",
		address("0.1.2.3"):          "0.1.2.3 is a reserved address",
		address("240.0.0.1"):        "240.0.0.1 is a reserved address",
		address("255.255.255.255"):  "255.255.255.255 is a reserved address",
		address("::ffff:127.0.0.1"): "::ffff:127.0.0.1 is IPv4-mapped; write 127.0.0.1",
	}
}

func invalidPools() []invalid {
	size := func(n uint32) func(*State) { return func(s *State) { s.web().TableSize = n } }
	return []invalid{
		{"no pool name", func(s *State) { s.Pools[0].Name = "" }, []string{`pool "", name: ""` + wantName}},
		{"pool name with a slash", func(s *State) { s.Pools[0].Name = "a/b" }, []string{`pool "a/b", name: "a/b"` + wantName}},
		{"pool name twice", func(s *State) { s.Pools[0].Name = "web" }, []string{`pool "web": this name is taken by another pool`}},
		{"no on_all_down", func(s *State) { s.web().OnAllDown = 0 }, []string{`pool "web", on_all_down: want drop, reset or last-known`}},
		{"unknown on_all_down", func(s *State) { s.web().OnAllDown = 4 }, []string{`pool "web", on_all_down: want drop, reset or last-known`}},
		{"no table size", size(0), []string{`pool "web", table_size: 0 is out of range 251 to 16777213`}},
		{"table too small", size(241), []string{`pool "web", table_size: 241 is out of range 251 to 16777213`}},
		{"table too large", size(16777259), []string{`pool "web", table_size: 16777259 is out of range 251 to 16777213`}},
		{"table of the largest number", size(1<<32 - 1), []string{`pool "web", table_size: 4294967295 is out of range 251 to 16777213`}},
		{"no prime", size(65536), []string{`pool "web", table_size: 65536 is not a prime; the next one is 65537`}},
		{"no prime at the end", size(MaxTableSize - 1), []string{`pool "web", table_size: 16777212 is not a prime; the next one is 16777213`}},
		{"too few slots", func(s *State) { s.web().Backends = many(13) }, []string{`pool "web", table_size: 251 slots are too few for 13 backends; want at least 263`}},
		{"too many backends", func(s *State) { s.web().Backends, s.web().TableSize = many(MaxBackends+1), MaxTableSize },
			[]string{`pool "web": has 32767 backends, at most 32766 are possible`}},
	}
}

func invalidBackends() []invalid {
	first := func(change func(*Backend)) func(*State) { return func(s *State) { change(&s.web().Backends[0]) } }
	rows := []invalid{
		{"backend twice", first(func(b *Backend) { b.Address = address("10.0.1.20") }), []string{`pool "web", backend 10.0.1.20: is in the pool already`}},
		{"weight too large", first(func(b *Backend) { b.Weight = MaxWeight + 1 }), []string{`pool "web", backend 10.0.1.10, weight: 65536 is out of range 0 to 65535`}},
		{"limit too large", func(s *State) {
			s.web().Backends[0].MaxConnections = MaxMaxConnections + 1
			for i := range s.VIPs {
				s.VIPs[i].Tracking = TrackingAlways
			}
		}, []string{`pool "web", backend 10.0.1.10, max_connections: 16777217 is out of range 1 to 16777216, or 0 for no limit`}},
		{"no state", first(func(b *Backend) { b.State = 0 }), []string{`pool "web", backend 10.0.1.10, state: want enabled, draining or disabled`}},
		{"unknown state", first(func(b *Backend) { b.State = 4 }), []string{`pool "web", backend 10.0.1.10, state: want enabled, draining or disabled`}},
		{"backend at a VIP's address", first(func(b *Backend) { b.Address = address("2001:db8::1") }),
			[]string{`pool "web", backend 2001:db8::1: this is the address of VIP "web6"; a backend needs an address of its own`}},
		{"backend and VIP without address", func(s *State) {
			s.VIPs[0].Endpoints[0].Address, s.web().Backends[0].Address = netip.Addr{}, netip.Addr{}
		},
			[]string{`pool "web", backend invalid IP, address: is missing`, `VIP "any", address: is missing`}},
	}
	for a, reason := range badAddresses() {
		rows = append(rows, invalid{
			"backend address " + a.String(),
			first(func(b *Backend) { b.Address = a }),
			[]string{`pool "web", backend ` + a.String() + `, address: ` + reason},
		})
	}
	return rows
}

func invalidChecks() []invalid {
	tcp := func(change func(*Check)) func(*State) { return func(s *State) { change(&s.web().Checks[3]) } }
	return []invalid{
		{"no check name", tcp(func(c *Check) { c.Name = "" }), []string{`pool "web", check "", name: ""` + wantName}},
		{"check name twice", tcp(func(c *Check) { c.Name = "http" }), []string{`pool "web", check "http": this name is taken by another check of the pool`}},
		{"no type", tcp(func(c *Check) { c.Type = 0 }), []string{`pool "web", check "tcp", type: want tcp, http, https, udp or icmp`}},
		{"unknown type", tcp(func(c *Check) { c.Type = 6 }), []string{`pool "web", check "tcp", type: want tcp, http, https, udp or icmp`}},
		{"short interval", tcp(func(c *Check) { c.Interval, c.Timeout = 49*time.Millisecond, time.Millisecond }),
			[]string{`pool "web", check "tcp", interval: 49ms is out of range 50ms to 1h0m0s`}},
		{"long interval", tcp(func(c *Check) { c.Interval = time.Hour + 1 }), []string{`pool "web", check "tcp", interval: 1h0m0.000000001s is out of range 50ms to 1h0m0s`}},
		{"no timeout", tcp(func(c *Check) { c.Timeout = 0 }), []string{`pool "web", check "tcp", timeout: 0s must be more than 0 and at most the interval, 2s`}},
		{"timeout below 0", tcp(func(c *Check) { c.Timeout = -1 }), []string{`pool "web", check "tcp", timeout: -1ns must be more than 0 and at most the interval, 2s`}},
		{"timeout beyond interval", tcp(func(c *Check) { c.Timeout = 3 * time.Second }), []string{`pool "web", check "tcp", timeout: 3s must be more than 0 and at most the interval, 2s`}},
		{"no rise", tcp(func(c *Check) { c.Rise = 0 }), []string{`pool "web", check "tcp", rise: 0 is out of range 1 to 100`}},
		{"large rise", tcp(func(c *Check) { c.Rise = 101 }), []string{`pool "web", check "tcp", rise: 101 is out of range 1 to 100`}},
		{"no fall", tcp(func(c *Check) { c.Fall = 0 }), []string{`pool "web", check "tcp", fall: 0 is out of range 1 to 100`}},
		{"large fall", tcp(func(c *Check) { c.Fall = 101 }), []string{`pool "web", check "tcp", fall: 101 is out of range 1 to 100`}},
		{"large jitter", tcp(func(c *Check) { c.Jitter = 51 }), []string{`pool "web", check "tcp", jitter: 51% is out of range 0 to 50`}},
		{"port of icmp", func(s *State) { s.web().Checks[2].Port = 7 }, []string{`pool "web", check "icmp", port: icmp checks have no port`}},
		{"no port anywhere", tcp(func(c *Check) { c.Port = 0 }), []string{`pool "web", check "tcp", port: is needed: backend 10.0.1.10 has no port of its own`}},
		{"fields of other types", tcp(func(c *Check) { c.Host, c.Path, c.Status, c.Body, c.Send = "a", "/", 200, "b", "c" }), []string{
			`pool "web", check "tcp", host: only http and https checks have one, this is tcp`,
			`pool "web", check "tcp", path: only http and https checks have one, this is tcp`,
			`pool "web", check "tcp", status: only http and https checks have one, this is tcp`,
			`pool "web", check "tcp", body: only http, https and udp checks have one, this is tcp`,
			`pool "web", check "tcp", send: only udp checks have one, this is tcp`,
		}},
		{"send of http", func(s *State) { s.web().Checks[0].Send = "?" }, []string{`pool "web", check "http", send: only udp checks have one, this is http`}},
		{"path of udp", func(s *State) { s.web().Checks[4].Path = "/" }, []string{`pool "web", check "udp", path: only http and https checks have one, this is udp`}},
	}
}

func invalidRequests() []invalid {
	http := func(change func(*Check)) func(*State) { return func(s *State) { change(&s.web().Checks[0]) } }
	rows := []invalid{
		{"no path", http(func(c *Check) { c.Path = "" }), []string{`pool "web", check "http", path: "" must begin with '/'`}},
		{"path without slash", http(func(c *Check) { c.Path = "ok" }), []string{`pool "web", check "http", path: "ok" must begin with '/'`}},
		{"path with a scheme", http(func(c *Check) { c.Path = "http://a/" }), []string{`pool "web", check "http", path: "http://a/" must begin with '/'`}},
		{"path with a space", http(func(c *Check) { c.Path = "/a?b c" }), []string{`pool "web", check "http", path: "/a?b c" has a space; write %20`}},
		{"status too low", http(func(c *Check) { c.Status = 99 }), []string{`pool "web", check "http", status: 99 is not an HTTP status; want 100 to 599, or 0 for any of 200 to 399`}},
		{"status too high", http(func(c *Check) { c.Status = 600 }), []string{`pool "web", check "http", status: 600 is not an HTTP status; want 100 to 599, or 0 for any of 200 to 399`}},
	}
	for _, path := range []string{"/%zz", "/100%", "/a\nHost:b", "/\x7f"} {
		rows = append(rows, invalid{fmt.Sprintf("path %q", path), http(func(c *Check) { c.Path = path }), []string{fmt.Sprintf(
			`pool "web", check "http", path: %q cannot be requested; write %% as %%25 and other special bytes as %% and two hexadecimal digits`, path)}})
	}
	for _, host := range []string{
		"a b", "a\r\nb: c", "http://example.com", "example.com/", "user@example.com", "example.com:", "example.com:http", "example.com:0", "example.com:65536",
		"2001:db8::1", "[2001:db8::1", "[10.0.1.10]", "[:]", "exämple.com", ":80", "a:80:80", strings.Repeat("a", 254),
	} {
		rows = append(rows, invalid{fmt.Sprintf("host %.20q", host), http(func(c *Check) { c.Host = host }), []string{fmt.Sprintf(
			`pool "web", check "http", host: %q is not a host; want a name or an address, such as example.com, 10.0.1.10:8080 or [2001:db8::10]`, host)}})
	}
	return rows
}
