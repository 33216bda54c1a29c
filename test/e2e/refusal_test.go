package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// The exit codes that `steelyard --help` lists.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitInvalid     = 5
	exitUnreachable = 6
)

// refusal is a command that must change nothing, and what it has to say.
type refusal struct {
	name string
	code int
	args []string
	want []string
}

// command splits a command line at spaces.
func command(line string) []string { return strings.Fields(line) }

func refusals(one string) []refusal {
	return []refusal{
		{"unknown pool", exitNotFound, command("pool show wbe"), []string{`no pool "wbe"`, "did you mean web?"}},
		{"unknown pool of a VIP", exitNotFound, command("vip add other 198.51.100.2:80 --pool wbe"), []string{`no pool "wbe"`, "did you mean web?"}},
		{"unknown VIP", exitNotFound, command("vip remove wbe"), []string{`no VIP "wbe"`, "did you mean web?"}},
		{"unknown backend", exitNotFound, command("backend drain web 10.0.0.1"), []string{`no backend "10.0.0.1"`, one}},
		{"unknown check", exitNotFound, command("check remove web htpt"), []string{`no check "htpt"`, "did you mean http?"}},
		{"duplicate VIP", exitConflict, command("vip add web 198.51.100.2:80 --pool web"), []string{`VIP "web" exists already`, "steelyard vip set web"}},
		{"duplicate pool", exitConflict, command("pool add web 10.0.0.12"), []string{`pool "web" exists already`}},
		{"duplicate backend", exitConflict, command("backend add web " + one), []string{one, "already"}},
		{"overlapping VIP", exitInvalid, command("vip add other 198.51.100.1:80 --pool web"), []string{`VIP "other"`, `VIP "web"`, "overlaps", "198.51.100.1:80/tcp"}},
		{"pool in use", exitConflict, command("pool remove web"), []string{`pool "web" is in use by VIP web`}},
		{"last backend", exitConflict, command("backend remove web " + one), []string{"the last one", "VIP web"}},
		{"port translation", exitInvalid, command("vip add other 198.51.100.2:80 --mode dsr-l2 --backend 10.0.0.12:8080"),
			[]string{`VIP "other"`, "cannot translate port 80 to port 8080", "10.0.0.12"}},
		{"port translation by a new backend", exitInvalid, command("backend add web 10.0.0.12:8080"), []string{`VIP "web"`, "cannot translate port 80 to port 8080"}},
		{"IPv4-mapped VIP", exitInvalid, command("vip add other [::ffff:198.51.100.2]:80 --pool web"), []string{`VIP "other"`, "is IPv4-mapped; write 198.51.100.2"}},
		{"multicast VIP", exitInvalid, command("vip add other 224.0.0.1:80 --pool web"), []string{`VIP "other"`, "multicast"}},
		{"multicast IPv6 VIP", exitInvalid, command("vip add other [ff0e::1]:80 --pool web"), []string{`VIP "other"`, "multicast"}},
		{"loopback VIP", exitInvalid, command("vip add other 127.0.0.1:80 --pool web"), []string{`VIP "other"`, "loopback"}},
		{"loopback IPv6 VIP", exitInvalid, command("vip add other [::1]:80 --pool web"), []string{`VIP "other"`, "loopback"}},
		{"VIP without a port", exitInvalid, command("vip add other 198.51.100.2 --pool web"), []string{"has no port", "198.51.100.2:80"}},
		{"VIP by name", exitInvalid, command("vip add other example.com:80 --pool web"), []string{`"example.com" is not an address`}},
		{"VIP with an endpoint twice", exitInvalid, command("vip add other 198.51.100.2:80 198.51.100.2:80 --pool web"), []string{`VIP "other", endpoints: 198.51.100.2:80/tcp is given twice`}},
		{"VIP with ranges that overlap", exitInvalid, command("vip add other 198.51.100.2:80-90,85-95 --pool web"), []string{`VIP "other", endpoints`, "198.51.100.2:85-95/tcp overlaps 198.51.100.2:80-90"}},
		{"one of several endpoints overlaps", exitInvalid, command("vip set web --add-endpoint 198.51.100.1:80,443"), []string{"198.51.100.1:80/tcp is given twice"}},
		{"ports backwards", exitInvalid, command("vip add other 198.51.100.2:90-80 --pool web"), []string{`"90-80" ends before it begins`}},
		{"unknown endpoint", exitNotFound, command("vip set web --remove-endpoint 198.51.100.1:81"), []string{`"198.51.100.1:81"`, "did you mean 198.51.100.1:80?"}},
		{"the last endpoint", exitInvalid, command("vip set web --remove-endpoint 198.51.100.1:80"), []string{`VIP "web", endpoints: has none`}},
		{"more endpoints than there is room for", exitInvalid, append(command("vip set web"), manyPorts()), []string{"endpoints: has 1025, at most 1024"}},
		{"misspelt affinity", exitInvalid, command("vip set web --affinity sorce"), []string{"did you mean source?"}},
		{"affinity prefix", exitInvalid, command("vip set web --affinity source --affinity-ipv6-prefix 129"), []string{"129 bits is out of range 1 to 128"}},
		{"MSS of UDP", exitInvalid, command("vip add other 198.51.100.2:80 --protocol udp --mss 1400 --pool web"), []string{`VIP "other", mss`, "only tcp has one"}},
		{"QUIC over TCP", exitInvalid, command("vip set web --quic"), []string{`VIP "web", quic`, "udp"}},
		{"server ID", exitInvalid, command("backend set web " + one + " --server-id 9:01"), []string{`"9:01" is not a server ID`}},
		{"VIP without backends", exitInvalid, command("vip add other 198.51.100.2:80 --pool empty"), []string{`pool "empty" has no backends`, "steelyard backend add empty"}},
		{"VIP as a backend", exitInvalid, command("backend add web 198.51.100.1"), []string{`VIP "web"`, "198.51.100.1"}},
		{"weight", exitInvalid, command("backend set web " + one + " --weight 65536"), []string{`pool "web"`, one, "weight", "65536 is out of range 0 to 65535"}},
		{"weight of a new backend", exitInvalid, command("backend add web 10.0.0.12,weight=99999"), []string{`pool "web"`, "10.0.0.12", "weight"}},
		{"negative weight", exitInvalid, command("backend add web 10.0.0.12,weight=-1"), []string{"10.0.0.12", "weight"}},
		{"table size not a prime", exitInvalid, command("pool set web --table-size 65536"), []string{`pool "web", table_size`, "65536 is not a prime; the next one is 65537"}},
		{"table too small", exitInvalid, command("pool set web --table-size 13"), []string{`pool "web", table_size`, "13 is out of range"}},
		{"table too small for its backends", exitInvalid, append(command("pool add crowded --table-size 251"), crowd()...), []string{`pool "crowded", table_size`, "too few for 20 backends"}},
		{"more slots than there is room for", exitFailure, command("pool add huge --table-size 16777213 10.0.0.12"), []string{`pool "huge"`, "no room", "limits.slots"}},
		{"misspelt mode", exitInvalid, command("vip set web --mode dsr-l3"), []string{`"dsr-l3"`, "did you mean dsr-l2?"}},
		{"timeout above interval", exitInvalid, command("check set web http --interval 1s --timeout 2s"), []string{`pool "web", check "http", timeout`}},
		{"misspelt verb", exitUsage, command("vip ad other"), []string{"unknown command", "did you mean add?"}},
		{"misspelt flag", exitUsage, command("vip add other 198.51.100.2:80 --pol web"), []string{"unknown flag --pol", "did you mean --pool?"}},
		{"missing argument", exitUsage, command("vip add"), []string{"missing an argument"}},
		{"another revision", exitConflict, command("backend drain web " + one + " --expect-revision 1"), []string{"revision"}},
		{"one of two changes", exitInvalid, command("backend add web 10.0.0.12 10.0.0.13,weight=65536"), []string{"10.0.0.13", "weight"}},
	}
}

// crowd are 20 backends.
func crowd() []string {
	var out []string
	for i := range 20 {
		out = append(out, fmt.Sprintf("10.0.0.%d", 100+i))
	}
	return out
}

// manyPorts is an address with one port more than a VIP may have endpoints.
func manyPorts() string {
	ports := make([]string, 1025)
	for i := range ports {
		ports[i] = fmt.Sprint(1000 + i)
	}
	return "198.51.100.1:" + strings.Join(ports, ",")
}

// TestRefusals sees that what cannot be is refused, and changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	vip, _ := lab.VIP(1)
	r := start(t, lab.Options{Backends: 1}, vip)
	one := r.Backends[0].V4.String()
	r.cli("pool", "add", "empty")
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, 10)
	r.addVIP("web", vip, "dsr-l2", "web")
	r.waitUp("web", r.Backends...)
	before := r.status()
	for _, row := range refusals(one) {
		said := r.refused(row.code, row.args...)
		for _, want := range row.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: %q does not say %q", row.name, said, want)
			}
		}
		after := r.status()
		if after.Revision != before.Revision || after.Applied != before.Applied || desired(after) != desired(before) {
			t.Errorf("%s: revision %d became %d, %d in force:\n%s", row.name, before.Revision, after.Revision, after.Applied, desired(after))
		}
		r.fetch(vip, 10)
	}

	said := r.refused(exitUnreachable, "--socket", filepath.Join(r.Dir(), "none.sock"), "status")
	if !strings.Contains(said, "none.sock") {
		t.Errorf("%q does not say which socket", said)
	}

	// The control: a change that can be raises the revision.
	r.cli("backend", "set", "web", one, "--weight", "65535")
	if after := r.status(); after.Revision != before.Revision+1 || !slices.ContainsFunc(after.Pools, func(p pool) bool { return p.of(r.Backends[0]).Weight == 65535 }) {
		t.Errorf("a good change left revision %d at %d", before.Revision, after.Revision)
	}
	r.fetch(vip, 10)
}
