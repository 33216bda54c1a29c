package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const reference = "../../packaging/steelyard.yaml"

// The reference file is what operators start from: it must load, and what it
// shows must be the defaults.
func TestReferenceFile(t *testing.T) {
	c, err := Load(reference)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Interfaces) > 0 {
		t.Errorf("interfaces are %v: those of the reference file come on top of --interface", c.Interfaces)
	}
	c.Interfaces = nil
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("the reference file shows %+v\nthe defaults are %+v", c, Default())
	}
}

// Every key that the reader knows is documented in the reference file.
func TestReferenceFileIsComplete(t *testing.T) {
	data, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	_, err = Parse("probe", []byte("?: 1\nencapsulation: {?: 1}\nnat: {?: 1}\nlimits: {?: 1}\napi: {?: 1}\nmetrics: {?: 1}\nlog: {?: 1}\n"))
	for _, line := range strings.Split(err.Error(), "\n") {
		if _, list, ok := strings.Cut(line, "known here: "); ok {
			known = append(known, strings.Split(list, ", ")...)
		}
	}
	if len(known) < 20 {
		t.Fatalf("found only %d keys: %v", len(known), known)
	}
	for _, key := range known {
		if !strings.Contains(string(data), key+":") {
			t.Errorf("%s does not mention %s", reference, key)
		}
	}
}

func TestEverythingGiven(t *testing.T) {
	c, err := Parse("full.yaml", []byte(`
interfaces: [ens1f0, bond0.100]
xdp_mode: native
hash_seed: "00112233445566778899aabbccddeeff"
encapsulation: { source_ipv4: 192.0.2.1, source_ipv6: "2001:db8::/112", gue_port: 65535, gue_checksum: true, mtu: 9000 }
nat: { source_ipv4: 10.0.0.0/22, source_ipv6: "2001:db8::400/118", ports: 1-65535 }
icmp_rate: 0
screening: false
limits: { vips: 10000, endpoints: 10000, pools: 65535, backends: 1048573, slots: 268435456, flows: 5000000, fragments: 16777216, splices: 16777216, source_lists: 4096, sources: 1000000 }
api: { socket: /run/a/../b.sock, group: adm }
metrics: { listen: "[2001:db8::1]:9464" }
store: /srv/state.db
pin_path: /sys/fs/bpf/lb//one/
detach_on_exit: true
sweep_share: 100
log: { level: debug, format: json }
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Interfaces:    []string{"ens1f0", "bond0.100"},
		XDPMode:       model.XDPNative,
		HashSeed:      [16]byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff},
		Encapsulation: Encapsulation{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/112"), 65535, true, 9000},
		NAT:           NAT{netip.MustParsePrefix("10.0.0.0/22"), netip.MustParsePrefix("2001:db8::400/118"), model.PortRange{First: 1, Last: 65535}},
		Limits:        Limits{VIPs: 10000, Endpoints: 10000, Pools: 65535, Backends: 1<<20 - 3, Slots: 1 << 28, Flows: 1 << 23, Fragments: 1 << 24, Splices: 1 << 24, SourceLists: 4096, Sources: 1 << 20},
		API:           API{Socket: "/run/b.sock", Group: "adm"},
		Metrics:       Metrics{Listen: "[2001:db8::1]:9464"},
		Store:         "/srv/state.db",
		PinPath:       "/sys/fs/bpf/lb/one",
		DetachOnExit:  true,
		SweepShare:    100,
		Log:           Log{Level: slog.LevelDebug, Format: LogJSON},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestFlowsAreAPowerOfTwo(t *testing.T) {
	for given, want := range map[uint32]uint32{1024: 1024, 1025: 2048, 1 << 20: 1 << 20, 1<<20 + 1: 1 << 21, 1<<28 - 1: 1 << 28, 1 << 28: 1 << 28} {
		c, err := Parse("flows.yaml", fmt.Appendf(nil, "limits: {flows: %d}\n", given))
		if err != nil || c.Limits.Flows != want {
			t.Errorf("%d gives %d, want %d; %v", given, c.Limits.Flows, want, err)
		}
	}
}

func TestFragmentsAreAPowerOfTwo(t *testing.T) {
	c, err := Parse("fragments.yaml", []byte("limits: {fragments: 20000}\n"))
	if err != nil || c.Limits.Fragments != 32768 || c.Limits.Flows != Default().Limits.Flows {
		t.Errorf("20000 gives %+v, %v", c.Limits, err)
	}
}

func TestSources(t *testing.T) {
	for given, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "192.0.2.1/32": "192.0.2.1/32", "198.18.0.0/16": "198.18.0.0/16", "192.0.2.64/26": "192.0.2.64/26",
	} {
		c, err := Parse("source.yaml", fmt.Appendf(nil, "encapsulation: {source_ipv4: %s}\n", given))
		if err != nil || c.Encapsulation.SourceIPv4.String() != want {
			t.Errorf("%s gives %v, %v", given, c.Encapsulation.SourceIPv4, err)
		}
	}
	c, err := Parse("source.yaml", []byte("encapsulation: {source_ipv4: \"\", mtu: 0}\n"))
	if err != nil || c.Encapsulation != Default().Encapsulation {
		t.Errorf("nothing gives %+v, %v", c.Encapsulation, err)
	}
}

func TestNAT(t *testing.T) {
	for given, want := range map[string]NAT{
		"source_ipv4: 192.0.2.1":           {SourceIPv4: netip.MustParsePrefix("192.0.2.1/32")},
		"source_ipv4: 192.0.2.64/26":       {SourceIPv4: netip.MustParsePrefix("192.0.2.64/26")},
		`source_ipv6: "2001:db8::1"`:       {SourceIPv6: netip.MustParsePrefix("2001:db8::1/128")},
		`source_ipv6: "2001:db8::4/126"`:   {SourceIPv6: netip.MustParsePrefix("2001:db8::4/126")},
		`source_ipv4: "", source_ipv6: ""`: {},
		"ports: 1-64":                      {Ports: model.PortRange{First: 1, Last: 64}},
		`ports: "65472-65535"`:             {Ports: model.PortRange{First: 65472, Last: 65535}},
	} {
		if want.Ports.Any() {
			want.Ports = model.PortRange{First: 1024, Last: 65535}
		}
		c, err := Parse("nat.yaml", fmt.Appendf(nil, "nat: {%s}\n", given))
		if err != nil || c.NAT != want {
			t.Errorf("%s gives %+v, %v", given, c.NAT, err)
		}
	}
}

func TestEmptyFileIsDefault(t *testing.T) {
	for _, in := range []string{"", "\n", "# nothing\n", "---\n", "{}"} {
		c, err := Parse("empty.yaml", []byte(in))
		if err != nil || !reflect.DeepEqual(c, Default()) {
			t.Errorf("%q gives %+v, %v", in, c, err)
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		// place is line:column, want a part of the reason.
		place, want string
	}{
		{"unknown key", "interfaces: [eth1]\nxdp-mode: auto\n", "2:1", "xdp-mode: unknown key; did you mean xdp_mode?"},
		{"unknown key, nothing near", "qqqqqqqq: 1\n", "1:1", "known here: api, detach_on_exit, encapsulation,"},
		{"unknown key in a section", "limits:\n  vips: 1\n  vipps: 3\n", "3:3", "limits.vipps: unknown key; did you mean vips?"},
		{"merge key", "<<: {store: /x}\n", "1:1", "unknown key"},
		{"key twice", "store: /a\nstore: /b\n", "2:1", `"store" already defined at [1:1]`},
		{"key twice in a section", "limits: {vips: 1, vips: 2}\n", "1:19", "already defined"},
		{"syntax", "interfaces: [eth1\n", "1:13", "']' not found"},
		{"second document", "store: /a\n---\nstore: /b\n", "3:", "second document"},
		{"not a mapping", "- eth1\n", "1:1", "want keys and values, not a list"},
		{"section is a scalar", "limits: 5\n", "1:9", "limits: want keys and values, not a whole number"},
		{"section is empty", "limits:\nstore: /a\n", "1:", "limits: want keys and values, not nothing"},
		{"list is text", "interfaces: eth1\n", "1:13", "interfaces: want a list, such as [eth1, eth2], not text"},
		{"list of numbers", "interfaces: [eth1, 2]\n", "1:20", `interfaces[1]: want text ("2" in quotes?), not a whole number`},
		{"list with a null", "interfaces: [~]\n", "1:14", "not nothing"},
		{"interface twice", "interfaces:\n  - eth1\n  - eth1\n", "3:5", "eth1 is in the list already"},
		{"interface too long", "interfaces: [abcdefghijklmnop]\n", "1:14", "is not the name of an interface"},
		{"interface with a slash", "interfaces: [a/b]\n", "1:14", "is not the name of an interface"},
		{"text is a number", "store: 5\n", "1:8", "store: want text"},
		{"text is a truth", "log: {format: true}\n", "1:15", "log.format: want text"},
		{"text is a list", "store: [a]\n", "1:8", "not a list"},
		{"text is an alias", "store: &a /x\n", "1:8", "store: want text"},
		{"number is text", "limits: {vips: \"12\"}\n", "1:16", "limits.vips: want a whole number from 1 to 10000, not text"},
		{"number is a fraction", "limits: {vips: 1.5}\n", "1:16", "not a fraction"},
		{"number is negative", "limits: {vips: -1}\n", "1:16", "limits.vips: -1 is out of range 1 to 10000"},
		{"number is enormous", "limits: {vips: 99999999999999999999999}\n", "1:16", "limits.vips: want a whole number from 1 to 10000, not text"},
		{"too many SNAT addresses", "nat: {source_ipv4: 10.0.0.0/21}\n", "1:20", "10.0.0.0/21 leaves 11 bits free, at most 10 are possible; write a longer prefix, /22 or more"},
		{"too many SNAT addresses of IPv6", "nat: {source_ipv6: \"2001:db8::/117\"}\n", "1:20", "2001:db8::/117 leaves 11 bits free, at most 10 are possible; write a longer prefix, /118 or more"},
		{"SNAT address of the other family", "nat: {source_ipv4: \"2001:db8::1\"}\n", "1:20", "nat.source_ipv4: \"2001:db8::1\" is neither an IPv4 address nor a prefix of them"},
		{"SNAT address that is none", "nat: {source_ipv6: \"::1\"}\n", "1:20", "::1 cannot be the source of packets to other hosts"},
		{"SNAT prefix with more bits", "nat: {source_ipv4: 10.0.0.1/24}\n", "1:20", "10.0.0.1/24 has bits behind its length; write 10.0.0.0/24, or 10.0.0.1 for the one address"},
		{"few SNAT ports", "nat: {ports: 1024-1086}\n", "1:14", `nat.ports: "1024-1086" is not a range of ports from 1 to 65535, at least 64 of them, such as 1024-65535`},
		{"any SNAT port", "nat: {ports: any}\n", "1:14", `"any" is not a range of ports`},
		{"SNAT ports backwards", "nat: {ports: 2000-1000}\n", "1:14", `"2000-1000" is not a range of ports`},
		{"SNAT port 0", "nat: {ports: 0-65535}\n", "1:14", `"0-65535" is not a range of ports`},
		{"SNAT ports as a number", "nat: {ports: 1024}\n", "1:14", "nat.ports: want text"},
		{"vips", "limits: {vips: 10001}\n", "1:16", "10001 is out of range 1 to 10000"},
		{"pools", "limits: {pools: 0}\n", "1:17", "0 is out of range 1 to 65535"},
		{"backends", "limits: {backends: 1048577}\n", "1:20", "out of range 1 to 1048573"},
		{"slots, few", "limits: {slots: 250}\n", "1:17", "out of range 251 to 268435456"},
		{"slots, many", "limits: {slots: 268435457}\n", "1:17", "out of range 251 to 268435456"},
		{"splices, few", "limits: {splices: 1023}\n", "1:19", "out of range 1024 to 16777216"},
		{"flows, few", "limits: {flows: 1023}\n", "1:17", "out of range 1024 to 268435456"},
		{"flows, many", "limits: {flows: 268435457}\n", "1:17", "out of range 1024 to 268435456"},
		{"flows, text", "limits: {flows: many}\n", "1:17", "limits.flows: want a whole number"},
		{"pins nowhere", "pin_path: \"\"\n", "1:11", `pin_path: "" is not an absolute path`},
		{"pins relative", "pin_path: bpf/steelyard\n", "1:11", "is not an absolute path"},
		{"truth is text", "detach_on_exit: \"true\"\n", "1:17", "detach_on_exit: want true or false, not text"},
		{"truth is a number", "detach_on_exit: 1\n", "1:17", "want true or false, not a whole number"},
		{"truth of YAML 1.1", "detach_on_exit: yes\n", "1:17", "want true or false, not text"},
		{"sweep, none", "sweep_share: 0\n", "1:14", "0 is out of range 1 to 100"},
		{"sweep, two cores", "sweep_share: 200\n", "1:14", "200 is out of range 1 to 100"},
		{"mode", "xdp_mode: skb\n", "1:11", `"skb" is none of auto, native, generic`},
		{"seed unquoted", "hash_seed: 0x1122\n", "1:12", "hash_seed: want text (\"0x1122\" in quotes?)"},
		{"seed short", "hash_seed: \"0011\"\n", "1:12", "want 32 hexadecimal digits"},
		{"seed not hex", "hash_seed: \"zz112233445566778899aabbccddeeff\"\n", "1:12", "want 32 hexadecimal digits"},
		{"seed zero", "hash_seed: \"00000000000000000000000000000000\"\n", "1:12", "all zeros"},
		{"source of the other family", "encapsulation: {source_ipv4: \"2001:db8::1\"}\n", "1:30", "is neither an IPv4 address nor a prefix of them"},
		{"source not an address", "encapsulation: {source_ipv6: lo}\n", "1:30", "is neither an IPv6 address nor a prefix of them"},
		{"source mapped", "encapsulation: {source_ipv6: \"::ffff:192.0.2.1\"}\n", "1:30", "is neither an IPv6 address nor a prefix of them"},
		{"source loopback", "encapsulation: {source_ipv4: 127.0.0.1}\n", "1:30", "cannot be the source"},
		{"source prefix too short", "encapsulation: {source_ipv4: 198.18.0.0/15}\n", "1:30", "leaves 17 bits free, at most 16 are possible; write a longer prefix, /16 or more"},
		{"source prefix too short, IPv6", "encapsulation: {source_ipv6: \"2001:db8::/64\"}\n", "1:30", "leaves 64 bits free, at most 16 are possible; write a longer prefix, /112 or more"},
		{"source prefix with host bits", "encapsulation: {source_ipv4: 192.0.2.1/24}\n", "1:30", "has bits behind its length; write 192.0.2.0/24, or 192.0.2.1 for the one address"},
		{"source prefix mapped", "encapsulation: {source_ipv6: \"::ffff:192.0.2.0/120\"}\n", "1:30", "is neither an IPv6 address"},
		{"source prefix too long", "encapsulation: {source_ipv4: 192.0.2.1/33}\n", "1:30", "is neither an IPv4 address"},
		{"source prefix loopback", "encapsulation: {source_ipv4: 127.0.0.0/24}\n", "1:30", "cannot be the source"},
		{"GUE port 0", "encapsulation: {gue_port: 0}\n", "1:27", "0 is out of range 1 to 65535"},
		{"GUE port too high", "encapsulation: {gue_port: 65536}\n", "1:27", "65536 is out of range 1 to 65535"},
		{"GUE checksum", "encapsulation: {gue_checksum: 1}\n", "1:31", "encapsulation.gue_checksum: want true or false"},
		{"MTU too small", "encapsulation: {mtu: 575}\n", "1:22", "encapsulation.mtu: 575 is out of range 576 to 65535"},
		{"MTU too large", "encapsulation: {mtu: 65536}\n", "1:22", "65536 is out of range 576 to 65535"},
		{"MTU below 0", "encapsulation: {mtu: -1}\n", "1:22", "-1 is out of range 576 to 65535"},
		{"ICMP rate", "icmp_rate: 1000001\n", "1:12", "1000001 is out of range 0 to 1000000"},
		{"endpoints, none", "limits: {endpoints: 0}\n", "1:21", "0 is out of range 1 to 10000"},
		{"endpoints, many", "limits: {endpoints: 10001}\n", "1:21", "10001 is out of range 1 to 10000"},
		{"fragments, few", "limits: {fragments: 1023}\n", "1:21", "out of range 1024 to 16777216"},
		{"fragments, many", "limits: {fragments: 16777217}\n", "1:21", "out of range 1024 to 16777216"},
		{"source with a zone", "encapsulation: {source_ipv6: \"fe80::1%eth0\"}\n", "1:30", "has a zone"},
		{"socket relative", "api: {socket: api.sock}\n", "1:15", "is not an absolute path"},
		{"socket too long", "api: {socket: /" + strings.Repeat("x", 107) + "}\n", "1:15", "at most 107 bytes, this one has 108"},
		{"listen without an address", "metrics: {listen: \":9464\"}\n", "1:19", "write 127.0.0.1:9464, or 0.0.0.0:9464"},
		{"listen without a port", "metrics: {listen: 127.0.0.1}\n", "1:19", "is not an IP address and a port"},
		{"listen on port 0", "metrics: {listen: \"127.0.0.1:0\"}\n", "1:19", "is not an IP address and a port"},
		{"store empty", "store: \"\"\n", "1:8", "is not an absolute path"},
		{"level", "log: {level: INFO}\n", "1:14", `"INFO" is none of debug, info, warn, error`},
		{"format", "log: {format: xml}\n", "1:15", `"xml" is none of text, json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("node.yaml", []byte(tt.in))
			if err == nil {
				t.Fatalf("accepted as %+v", c)
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Errorf("a refused file still gives %+v", c)
			}
			if got, want := err.Error(), "node.yaml:"+tt.place; !strings.HasPrefix(got, want) || !strings.Contains(got, tt.want) {
				t.Errorf("got %s\nwant it to begin with %s and to say %s", got, want, tt.want)
			}
			fault, ok := errors.AsType[*Error](err)
			if !ok || !strings.Contains(fault.Excerpt, ">  ") || !strings.Contains(fault.Excerpt, "^") {
				t.Errorf("no excerpt with a caret: %v", err)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := Parse("node.yaml", []byte("xdp_mode: skb\nlimits: {vips: 0, pols: 1}\nlog: {level: loud}\n"))
	for _, want := range []string{"node.yaml:1:11: xdp_mode", "node.yaml:2:16: limits.vips", "node.yaml:2:19: limits.pols", "node.yaml:3:14: log.level"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file gives %v", err)
	}
	if err := os.WriteFile(path, []byte("xdp_mode: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":1:") {
		t.Errorf("errors do not begin with the path: %v", err)
	}
}

func TestAddInterfaces(t *testing.T) {
	c := Config{Interfaces: []string{"eth1"}}
	if err := c.AddInterfaces("eth2", "eth1"); err != nil || !slices.Equal(c.Interfaces, []string{"eth1", "eth2"}) {
		t.Errorf("got %v, %v", c.Interfaces, err)
	}
	if err := c.AddInterfaces("a/b"); err == nil || len(c.Interfaces) != 2 {
		t.Errorf("a bad name gives %v, %v", c.Interfaces, err)
	}
	none := Config{}
	if err := none.AddInterfaces(); err == nil || !strings.Contains(err.Error(), "--interface") {
		t.Errorf("no interface at all gives %v", err)
	}
}

// No input makes the parser panic, and what it refuses has a reason.
func FuzzParse(f *testing.F) {
	data, err := os.ReadFile(reference)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(data), "", "a: [", "? x", "&a *a", "!!int x", "a: |\n b\n", "\"", "- - -", "{{", ": :", "\x00", "a:\n\tb: c"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("fuzz.yaml", data); err != nil && err.Error() == "" {
			t.Error("refused without a reason")
		}
	})
}
