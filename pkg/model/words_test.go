package model

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// words makes sure that parse reads exactly the words that values are printed as.
func words[T interface {
	comparable
	fmt.Stringer
}](t *testing.T, parse func(string) (T, error), want map[string]T, mistakes map[string]string) {
	t.Helper()
	for word, value := range want {
		if got, err := parse(word); err != nil || got != value || value.String() != word {
			t.Errorf("%q is read as %v (%v) and %v printed as %q", word, got, err, value, value.String())
		}
	}
	var zero T
	for word, reason := range mistakes {
		if got, err := parse(word); err == nil || got != zero || err.Error() != reason {
			t.Errorf("%q is read as %v, %v; want %s", word, got, err, reason)
		}
	}
}

func TestWords(t *testing.T) {
	words(t, ParseProtocol, map[string]Protocol{"tcp": TCP, "udp": UDP}, map[string]string{
		"TCP":  `unknown protocol "TCP"; did you mean tcp? want tcp, udp`,
		"sctp": `unknown protocol "sctp"; did you mean tcp? want tcp, udp`,
		"":     `unknown protocol ""; want tcp, udp`,
	})
	words(t, ParseMode, map[string]Mode{"dsr-l2": ModeDSRL2, "dsr-ipip": ModeDSRIPIP, "dsr-gue": ModeDSRGUE, "nat": ModeNAT, "fullnat": ModeFullNAT}, map[string]string{
		"dsr-l3": `unknown forwarding mode "dsr-l3"; did you mean dsr-l2? want dsr-l2, dsr-ipip, dsr-gue, nat, fullnat`,
		"snat":   `unknown forwarding mode "snat"; did you mean nat? want dsr-l2, dsr-ipip, dsr-gue, nat, fullnat`,
	})
	words(t, ParseOnAllDown, map[string]OnAllDown{"drop": OnAllDownDrop, "reset": OnAllDownReset, "last-known": OnAllDownLastKnown}, map[string]string{
		"last_known": `unknown on_all_down "last_known"; did you mean last-known? want drop, reset, last-known`,
	})
	words(t, ParseAdminState, map[string]AdminState{"enabled": Enabled, "draining": Draining, "disabled": Disabled}, map[string]string{
		"drain": `unknown state "drain"; did you mean draining? want enabled, draining, disabled`,
	})
	words(t, ParseAffinityScope, map[string]AffinityScope{"flow": AffinityFlow, "source": AffinitySource, "pool": AffinityPool}, map[string]string{
		"src":  `unknown affinity "src"; want flow, source, pool`,
		"flux": `unknown affinity "flux"; did you mean flow? want flow, source, pool`,
	})
	words(t, ParseFragmentPolicy, map[string]FragmentPolicy{"follow": FragmentsFollow, "hash": FragmentsHash}, map[string]string{
		"has": `unknown fragments "has"; did you mean hash? want follow, hash`,
	})
	words(t, ParseCheckType, map[string]CheckType{"tcp": CheckTCP, "http": CheckHTTP, "https": CheckHTTPS, "udp": CheckUDP, "icmp": CheckICMP}, map[string]string{
		"ping": `unknown check type "ping"; want tcp, http, https, udp, icmp`,
	})
}

// A value that has no word is printed as its number, so that it can be found.
func TestUnknownValues(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"protocol(132)": Protocol(132), "mode(9)": Mode(9), "on_all_down(9)": OnAllDown(9),
		"state(9)": AdminState(9), "check(9)": CheckType(9), "health(9)": Health(9),
		"affinity(9)": AffinityScope(9), "fragments(9)": FragmentPolicy(9),
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func anyAddress() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, rapid.Uint32().Draw(t, "address"))))
		}
		high, low := rapid.Uint64().Draw(t, "high"), rapid.Uint64().Draw(t, "low")
		return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, high), low)))
	})
}

func TestBackendIDRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := BackendID{Address: anyAddress().Draw(t, "address"), Port: rapid.Uint16().Draw(t, "port")}
		if got, err := ParseBackendID(id.String()); err != nil || got != id {
			t.Fatalf("%#v is printed as %q and read as %#v, %v", id, id, got, err)
		}
	})
}

func TestParseBackendID(t *testing.T) {
	for word, want := range map[string]string{
		"10.0.1.10": "10.0.1.10", "10.0.1.10:8080": "10.0.1.10:8080", "2001:DB8::10": "2001:db8::10", "[2001:db8::10]:8080": "[2001:db8::10]:8080",
	} {
		if got, err := ParseBackendID(word); err != nil || got.String() != want {
			t.Errorf("%q is read as %q, %v; want %q", word, got, err, want)
		}
	}
	for _, word := range []string{"", "web1", "10.0.1", "10.0.1.10:", "10.0.1.10:65536", "10.0.1.10:http", "[2001:db8::10]", "2001:db8::10:x", "10.0.1.10/32"} {
		want := fmt.Sprintf("%q is not a backend: want an address, or an address and a port, such as 10.0.1.10, 10.0.1.10:8080 or [2001:db8::10]:8080", word)
		if got, err := ParseBackendID(word); err == nil || err.Error() != want {
			t.Errorf("%q is read as %v, %v; want %s", word, got, err, want)
		}
	}
}

// The order of backends is total, the same on every node, and agrees with identity.
func TestBackendIDOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) BackendID {
			return BackendID{Address: anyAddress().Draw(t, label), Port: rapid.Uint16Range(0, 1).Draw(t, label+" port")}
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

func TestNear(t *testing.T) {
	known := []string{"web", "web-blue", "web-green", "mail", "Mail2", "dns"}
	for word, want := range map[string][]string{
		"wbe":      {"web"},
		"web-blu":  {"web-blue"},
		"web-":     {"web", "web-blue", "web-green"}, // also what it is the beginning of
		"MAIL":     {"mail", "Mail2"},
		"mail2":    {"Mail2", "mail"},
		"database": {},
		"":         {},
	} {
		if got := Near(word, known); !slices.Equal(got, want) {
			t.Errorf("near %q are %q, want %q", word, got, want)
		}
	}
	if got := Near("w", []string{"w4", "w3", "w2", "w1"}); !slices.Equal(got, []string{"w1", "w2", "w3"}) {
		t.Errorf("got %q, want the first three", got)
	}
}

func TestEditDistance(t *testing.T) {
	for pair, want := range map[[2]string]int{
		{"", ""}: 0, {"", "abc"}: 3, {"abc", ""}: 3, {"kitten", "sitting"}: 3, {"flaw", "lawn"}: 2, {"abc", "abc"}: 0, {"abc", "xyz"}: 3,
	} {
		if got := editDistance(pair[0], pair[1]); got != want {
			t.Errorf("from %q to %q are %d edits, want %d", pair[0], pair[1], got, want)
		}
	}
}

func TestWithDefaults(t *testing.T) {
	got := Check{Type: CheckHTTP}.WithDefaults()
	want := Check{Name: "http", Type: CheckHTTP, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Path: "/"}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := (Check{Type: CheckTCP, Interval: 100 * time.Millisecond}).WithDefaults(); got.Timeout != got.Interval || got.Path != "" {
		t.Errorf("got %+v, want a timeout of the interval and no path", got)
	}
	full := Check{Name: "a", Type: CheckHTTPS, Interval: 3, Timeout: 2, Rise: 7, Fall: 8, Path: "/b"}
	if got := full.WithDefaults(); got != full {
		t.Errorf("what was given became %+v", got)
	}
}
