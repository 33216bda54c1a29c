package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSourceLists makes lists, names them and takes them away again.
func TestSourceLists(t *testing.T) {
	b := newBench(t)
	file := writeFile(t, "bad.txt", "# bad hosts\n192.0.2.0/24 # all of them\n\n\t203.0.113.7\r\n2001:db8::/32\n203.0.113.7\n")
	expect := func(line, want string) {
		t.Helper()
		if got := b.must(t, line); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", line, got, want)
		}
	}
	expect("source-list set bad --file "+file, "set source list bad to 4 prefixes; revision 1\n")
	b.stdin = "10.0.0.0/8"
	expect("source-list set good --file -", "set source list good to 1 prefix; revision 2\n")
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --deny bad --allow good")
	expect("source-list use --bogus bad", "changed the source lists of all VIPs; revision 4\n")
	expect("source-list list", "LIST  IPV4 PREFIXES  IPV6 PREFIXES  USED BY\nbad   2              1              all VIPs (bogus), VIP web (deny)\ngood  1              0              VIP web (allow)\n")
	expect("source-list show bad", "# bad: 2 of IPv4, 1 of IPv6\n192.0.2.0/24\n203.0.113.7/32\n2001:db8::/32\n")
	if shown := b.must(t, "vip show web"); !strings.Contains(shown, "deny:          bad\n") || !strings.Contains(shown, "allow:         good\n") {
		t.Errorf("vip show has no lists:\n%s", shown)
	}
	if _, errs, exit := b.run("source-list", "remove", "good"); exit != 4 || !strings.Contains(errs, `source list "good" is in use by VIP web (allow)`) {
		t.Errorf("removed a list in use: exit %d, %s", exit, errs)
	}
	b.must(t, "vip set web --deny none --allow none")
	b.must(t, "source-list use --bogus none")
	b.must(t, "source-list remove good")
	if state, _ := b.Desired(); len(state.SourceLists) != 1 || state.VIPs[0].Sources != (model.Sources{}) || state.Sources != (model.NodeSources{}) {
		t.Errorf("left are %+v", state)
	}
	if _, errs, exit := b.run("vip", "set", "web", "--deny", "bda"); exit != 3 || !strings.Contains(errs, "did you mean bad?") {
		t.Errorf("a list that is not there: exit %d, %s", exit, errs)
	}
}

// TestSourceListFaults: a file with a bad line is refused with the line, and nothing
// changes.
func TestSourceListFaults(t *testing.T) {
	b := newBench(t)
	for line, want := range map[string]string{
		"192.0.2.1/24":     "192.0.2.1/24 has bits beyond its length; write 192.0.2.0/24, or 192.0.2.1",
		"::ffff:192.0.2.1": "::ffff:192.0.2.1/128 is IPv4-mapped; write it as IPv4",
		"192.0.2":          `"192.0.2" is neither an address nor a prefix`,
		"10.0.0.0/33":      `"10.0.0.0/33" is neither`,
		"fe80::1%eth0":     "zone",
		"a b":              `"a b" is neither`,
		"10.0.0.0/8, x":    "is neither",
	} {
		file := writeFile(t, "bad.txt", "10.0.0.0/8\n# comment\n"+line+"\n10.1.0.0/16\n")
		_, errs, exit := b.run("source-list", "set", "bad", "--file", file)
		if exit != 5 || !strings.Contains(errs, file+":3: ") || !strings.Contains(errs, want) {
			t.Errorf("%q: exit %d, %s", line, exit, errs)
		}
	}
	file := writeFile(t, "bad.txt", strings.Repeat("x\n", 25))
	if _, errs, _ := b.run("source-list", "set", "bad", "--file", file); strings.Count(errs, "\n") != 11 || !strings.Contains(errs, "and 15 lines more") {
		t.Errorf("many faults: %s", errs)
	}
	for _, args := range [][]string{{"source-list", "set", "bad"}, {"source-list", "use"}, {"source-list"}} {
		if _, errs, exit := b.run(args...); exit != 2 {
			t.Errorf("%v: exit %d, %s", args, exit, errs)
		}
	}
	if _, errs, exit := b.run("source-list", "set", "none", "--file", writeFile(t, "l", "")); exit != 5 {
		t.Errorf("a list called none: exit %d, %s", exit, errs)
	}
	if _, revision := b.Desired(); revision != 0 {
		t.Errorf("something was changed: revision %d", revision)
	}
}

// TestLimitFlags gives a VIP limits, and takes one away.
func TestLimitFlags(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --limit-connections 1000 --limit-source-connections 50,burst=100,observe --limit-packets 100000 --limit-ipv6-prefix 56")
	b.must(t, "vip set web --limit-packets none --limit-source-packets 2000,enforce")
	state, _ := b.Desired()
	want := model.Limits{
		Connections: model.Limit{Rate: 1000}, SourceConnections: model.Limit{Rate: 50, Burst: 100, Observe: true}, SourcePackets: model.Limit{Rate: 2000}, IPv6Prefix: 56,
	}
	if got := state.VIPs[0].Limits; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	b.Observe(func(s *model.Status) {
		s.VIPs[0].Dropped = []model.Reason{{Name: "drop_tcp_flags"}, {Name: "drop_limit_connections", Packets: 12}}
		s.VIPs[0].Observed = []model.Reason{{Name: "drop_limit_source_connections", Packets: 7}}
		s.VIPs[0].Forgotten = 3
	})
	shown := b.must(t, "vip show web")
	for _, want := range []string{
		"limit connections:         1000\n", "limit source connections:  50,burst=100,observe (IPv4 /32, IPv6 /56)\n", "limit source packets:      2000 (IPv4 /32, IPv6 /56)\n",
		"drop_limit_connections  12\n", "observed: 7 would be drop_limit_source_connections\n", "limits began anew for 3 sources, for want of room",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("vip show lacks %q:\n%s", want, shown)
		}
	}
	if shown := b.must(t, "vip show web -o json"); !strings.Contains(shown, `"source_connections": "50,burst=100,observe"`) || !strings.Contains(shown, `"drop_limit_source_connections": 7`) {
		t.Errorf("vip show -o json:\n%s", shown)
	}
	for flags, want := range map[string]string{
		"--limit-connections 0":              `rate "0" is no number from 1 to 100000000`,
		"--limit-packets 5,often":            `unknown setting "often"`,
		"--limit-packets 1000,burst=3":       "a burst of 3 is out of range 10",
		"--limit-ipv4-prefix 33":             "33 is out of range 1 to 32",
		"--protocol udp --limit-packets 100": "plain udp does not tell",
	} {
		_, errs, exit := b.run(append([]string{"vip", "set", "web"}, strings.Fields(flags)...)...)
		if exit != 5 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", flags, exit, errs)
		}
	}
}
