package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/steelyard-lb/steelyard/pkg/api/apitest"
	"github.com/steelyard-lb/steelyard/pkg/cli"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// bench runs commands against a daemon in memory.
type bench struct {
	*apitest.Controller
	socket  string
	now     time.Time
	daemon  func(context.Context, cli.DaemonOptions) error
	backend func(context.Context, cli.BackendOptions) error
	detach  func(context.Context, cli.DetachOptions) error
	// after is called instead of passing time.
	after func(time.Duration)
	stdin string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Controller: &apitest.Controller{}, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	b.socket = apitest.Serve(t, b.Controller, func() time.Time { return b.now })
	return b
}

// run runs a command and returns what it printed, and its exit code.
func (b *bench) run(args ...string) (stdout, stderr string, exit int) {
	return b.runUntil(context.Background(), args...)
}

func (b *bench) runUntil(ctx context.Context, args ...string) (stdout, stderr string, exit int) {
	var out, errs bytes.Buffer
	exit = cli.Run(ctx, cli.World{
		Stdin: strings.NewReader(b.stdin), Stdout: &out, Stderr: &errs, Args: args, Version: "1.2.3",
		Now: func() time.Time { return b.now },
		After: func(d time.Duration) <-chan time.Time {
			b.after(d)
			passed := make(chan time.Time, 1)
			passed <- b.now
			return passed
		},
		Getenv: func(name string) string {
			return map[string]string{cli.SocketVariable: b.socket}[name]
		},
		Daemon: b.daemon, Backend: b.backend, Detach: b.detach,
	})
	return out.String(), errs.String(), exit
}

// must runs a command, written as in a shell, that has to succeed in silence
// but for its standard output.
func (b *bench) must(t *testing.T, line string) string {
	t.Helper()
	out, errs, exit := b.run(strings.Fields(line)...)
	if exit != 0 || errs != "" {
		t.Fatalf("%s: exit %d, %s", line, exit, errs)
	}
	return out
}

// observed is a service with everything that a data plane and checks would know.
func observed(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11,weight=3 --check http:8080/healthz")
	b.must(t, "pool add resolvers 2001:db8:1::53 2001:db8:1::54 --on-all-down last-known")
	b.must(t, "check add resolvers dns --type udp --port 53 --send ping --body pong --jitter 10")
	b.must(t, "vip add dns [2001:db8::53]:any --protocol udp --mode dsr-l2 --pool resolvers")
	b.must(t, "vip add shop 192.0.2.20:80,443 [2001:db8::20]:8000-8100 --mode dsr-gue --affinity source --affinity-ipv4-prefix 24 --mss 1400 --pool web")
	b.must(t, "backend set web 10.0.1.11 --server-id 0:c4605e --server-id 6:01")
	b.Observe(func(s *model.Status) { observe(s, b.now) })
	return b
}

func observe(s *model.Status, now time.Time) {
	s.Version, s.Started = "1.2.3", now.Add(-3*time.Hour-2*time.Minute)
	s.Interfaces = []model.InterfaceStatus{{Name: "eth1", Mode: "native"}, {Name: "eth2", Mode: "generic", Warning: "the driver cannot run XDP; packets are handled more slowly"}}
	for i := range s.VIPs {
		s.VIPs[i].Available = s.VIPs[i].Name == "web"
		s.VIPs[i].Counters = model.Counters{Packets: 1200 * uint64(i), Bytes: 5 << 20 * uint64(i), Connections: 7 * uint64(i)}
	}
	for i := range s.Pools {
		p := &s.Pools[i]
		for j := range p.Backends {
			be := &p.Backends[j]
			check := model.CheckStatus{Name: "http", Health: model.HealthUp, Result: "L7OK", Detail: "200 OK", Reason: "2 of 2 passed",
				Since: now.Add(-90 * time.Second), Checked: now.Add(-time.Second), Duration: 1500 * time.Microsecond}
			be.NextHop = model.NextHop{Interface: "eth1", VLAN: 7, MAC: "02:00:00:00:00:01"}
			be.Slots, be.Counters = p.TableSize/2, model.Counters{Packets: 600, Bytes: 1536, Connections: 3}
			if p.Name == "resolvers" {
				check.Name, check.Health, check.Result, check.Detail, check.Reason = "dns", model.HealthDown, "L4TOUT", "no answer within 1s", "3 of 3 failed"
				be.Slots, be.Counters = 0, model.Counters{}
				be.NextHop = model.NextHop{Problem: "no route to host"}
			}
			be.Health, be.Since, be.Checks = check.Health, check.Since, []model.CheckStatus{check}
		}
	}
	s.Reasons = []model.Reason{{Name: "pass_not_vip"}, {Name: "drop_fragment_early", Packets: 4}, {Name: "drop_no_backend", Packets: 12}}
	s.Maps = []model.MapUse{{Name: "slots", Used: 131074, Capacity: 4194304, Bytes: 16777216}}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it anew):\n%s\nwant\n%s", path, got, want)
	}
}

func TestGolden(t *testing.T) {
	b := observed(t)
	for name, line := range map[string]string{
		"status.txt":           "status",
		"status.json":          "status -o json",
		"status.yaml":          "status -o yaml",
		"vip-list.txt":         "vip list",
		"vip-list.json":        "vip list -o json",
		"vip-show.txt":         "vip show web",
		"vip-show.json":        "vip show web -o json",
		"vip-show-shop.txt":    "vip show shop",
		"vip-show-dns.txt":     "vip show dns",
		"backend-show-id.txt":  "backend show web 10.0.1.11",
		"help-vip-set.txt":     "vip set --help",
		"pool-list.txt":        "pool list",
		"pool-show.txt":        "pool show resolvers",
		"pool-show.json":       "pool show web -o json",
		"pool-show.yaml":       "pool show resolvers -o yaml",
		"backend-list.txt":     "backend list",
		"backend-list-web.txt": "backend list web",
		"backend-show.txt":     "backend show web 10.0.1.10",
		"backend-show.json":    "backend show resolvers 2001:db8:1::53 -o json",
		"check-list.txt":       "check list",
		"check-show.txt":       "check show web http",
		"check-show.json":      "check show resolvers dns -o json",
		"help.txt":             "--help",
		"help-vip-add.txt":     "vip add --help",
		"help-backend.txt":     "backend --help",
		"help-remove.txt":      "backend remove --help",
		"help-detach.txt":      "detach --help",
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, b.must(t, line)) })
	}
}

// TestLimitedBackends: tables have a column for limits, and a note of who is full.
func TestLimitedBackends(t *testing.T) {
	b := observed(t)
	b.Observe(func(s *model.Status) {
		observe(s, b.now)
		for i := range s.Pools {
			if p := &s.Pools[i]; p.Name == "web" {
				full := &p.Backends[0]
				full.MaxConnections, full.Counted, full.Full, full.Flows, full.Slots = 500, 501, true, 510, 0
				p.Backends[1].MaxConnections, p.Backends[1].Counted = 2000, 7
			}
		}
	})
	golden(t, "limited-pool-show.txt", b.must(t, "pool show web"))
	golden(t, "limited-backend-show.txt", b.must(t, "backend show web 10.0.1.10"))
	golden(t, "help-backend-set.txt", b.must(t, "backend set --help"))
}

// TestYAMLSaysTheSame compares the two outputs for programs, with strings that
// YAML may take for something else.
func TestYAMLSaysTheSame(t *testing.T) {
	b := observed(t)
	b.Observe(func(s *model.Status) {
		observe(s, b.now)
		s.Error = "two:\n  - lines"
		for i, text := range []string{"52:54:00:12:34:56", "0x10", "1e3", "no", "~", "", "- x", "a: b", "# c", "'", "\"", "2026-05-01"} {
			s.Interfaces = append(s.Interfaces, model.InterfaceStatus{Name: fmt.Sprintf("eth%d", i), Mode: text, Warning: text})
		}
	})
	var fromJSON, fromYAML any
	if err := json.Unmarshal([]byte(b.must(t, "status -o json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	out := b.must(t, "status -o yaml")
	if err := yaml.Unmarshal([]byte(out), &fromYAML); err != nil {
		t.Fatal(err)
	}
	// Through JSON once more, so that numbers have the same types.
	again, err := json.Marshal(fromYAML)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromJSON, fromYAML) {
		t.Errorf("YAML\n%s differs from JSON", out)
	}
	if !strings.Contains(out, `mode: "52:54:00:12:34:56"`) {
		t.Error("a MAC address is not quoted")
	}
}

func TestNothingYet(t *testing.T) {
	b := newBench(t)
	if out := b.must(t, "status"); !strings.Contains(out, "Nothing is balanced yet. Add a VIP with: steelyard vip add") {
		t.Errorf("%s", out)
	}
	for _, noun := range []string{"vip", "pool", "backend", "check"} {
		if out := b.must(t, noun+" list -o json"); out != "[]\n" {
			t.Errorf("%s list: %q", noun, out)
		}
	}
}

// TestChanges goes through every verb, and what each says.
func TestChanges(t *testing.T) {
	b := newBench(t)
	for i, row := range []struct{ line, want string }{
		{"vip add web 192.0.2.10:80 --backend 10.0.1.10 --backend 10.0.1.11", "added VIP web 192.0.2.10:80/tcp -> pool web, 2 backends"},
		{"pool add green 10.0.2.10,weight=5 10.0.2.11 --check http:80/a --check http:81/b --table-size 251", "added pool green, 2 backends, 2 checks"},
		{"vip set web 192.0.2.11:any --pool green --mode dsr-l2", "changed VIP web"},
		{"pool set green --on-all-down reset", "changed pool green"},
		{"backend add green 10.0.2.12 10.0.2.13,weight=0 --weight 2 --state disabled", "added backends 10.0.2.12, 10.0.2.13 of pool green"},
		{"backend set green 10.0.2.12 --weight 9", "changed backend 10.0.2.12 of pool green"},
		{"backend drain green 10.0.2.10 10.0.2.11", "draining backends 10.0.2.10, 10.0.2.11 of pool green"},
		{"backend enable green 10.0.2.10", "enabled backend 10.0.2.10 of pool green"},
		{"backend disable green 10.0.2.11", "disabled backend 10.0.2.11 of pool green"},
		{"backend remove green 10.0.2.13", "removed backend 10.0.2.13 of pool green"},
		{"check add green icmp", "added check icmp to pool green"},
		{"check set green http --interval 5s --fall 4", "changed check http of pool green"},
		{"check remove green http-2", "removed check http-2 of pool green"},
		{"pool remove web", "removed pool web"},
		{"pool set green --on-all-down drop --expect-revision 14", "changed pool green"},
		{"vip set web --tracking always --idle-timeout 1h", "changed VIP web"},
		{"pool set green --down-grace 0s --slow-start 90s", "changed pool green"},
		{"vip set web --add-endpoint 192.0.2.11:80,443 --add-endpoint [2001:db8::11]:8000-8100 --mode dsr-gue", "changed VIP web"},
		{"vip set web --remove-endpoint 192.0.2.11:80 --affinity pool --affinity-ipv4-prefix 24 --affinity-ipv6-prefix 56", "changed VIP web"},
		{"vip set web --fragments hash --mss 1400", "changed VIP web"},
		{"backend add green 10.0.2.14,server_id=0:c4605e,server_id=1:01 10.0.2.15 --server-id 0:c4605f", "added backends 10.0.2.14, 10.0.2.15 of pool green"},
		{"backend set green 10.0.2.14 --server-id 2:AABB --server-id 0:000000", "changed backend 10.0.2.14 of pool green"},
		{"backend set green 10.0.2.15 --server-id none", "changed backend 10.0.2.15 of pool green"},
		{"vip add h3 192.0.2.11:443 [2001:db8::11]:443 --protocol udp --quic --pool green", "added VIP h3 192.0.2.11:443/udp and 1 more -> pool green"},
		{"vip set h3 --quic=false", "changed VIP h3"},
		{"vip remove h3", "removed VIP h3"},
		{"backend set green 10.0.2.10 10.0.2.12 --max-connections 500", "changed backends 10.0.2.10, 10.0.2.12 of pool green"},
		{"backend set green 10.0.2.12 --max-connections 0", "changed backend 10.0.2.12 of pool green"},
		{"backend add green 10.0.2.16,max_connections=7", "added backend 10.0.2.16 of pool green"},
	} {
		want := fmt.Sprintf("%s; revision %d\n", row.want, i+1)
		if out := b.must(t, row.line); out != want {
			t.Errorf("%s: %q, want %q", row.line, out, want)
		}
	}
	state, _ := b.Desired()
	at := netip.MustParseAddr
	want := model.State{
		VIPs: []model.VIP{{
			Name: "web", Protocol: model.TCP, Mode: model.ModeDSRGUE, Pool: "green", Tracking: model.TrackingAlways, IdleTimeout: time.Hour,
			Endpoints: []model.Endpoint{
				{Address: at("192.0.2.11")}, {Address: at("192.0.2.11"), Ports: model.Port(443)}, {Address: at("2001:db8::11"), Ports: model.PortRange{First: 8000, Last: 8100}},
			},
			Affinity: model.Affinity{Scope: model.AffinityPool, IPv4Prefix: 24, IPv6Prefix: 56}, Fragments: model.FragmentsHash, MSS: 1400,
		}},
		Pools: []model.Pool{{Name: "green", TableSize: 251, OnAllDown: model.OnAllDownDrop, SlowStart: 90 * time.Second,
			Checks: []model.Check{
				{Name: "http", Type: model.CheckHTTP, Port: 80, Interval: 5 * time.Second, Timeout: time.Second, Rise: 2, Fall: 4, Path: "/a"},
				{Name: "icmp", Type: model.CheckICMP, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3},
			},
			Backends: []model.Backend{
				{BackendID: model.BackendID{Address: at("10.0.2.10")}, Weight: 5, State: model.Enabled, MaxConnections: 500},
				{BackendID: model.BackendID{Address: at("10.0.2.11")}, Weight: 1, State: model.Disabled},
				{BackendID: model.BackendID{Address: at("10.0.2.12")}, Weight: 9, State: model.Disabled},
				{BackendID: model.BackendID{Address: at("10.0.2.14")}, Weight: 1, State: model.Enabled,
					ServerIDs: []model.ServerID{{Config: 0, ID: "\x00\x00\x00"}, {Config: 2, ID: "\xaa\xbb"}}},
				{BackendID: model.BackendID{Address: at("10.0.2.15")}, Weight: 1, State: model.Enabled},
				{BackendID: model.BackendID{Address: at("10.0.2.16")}, Weight: 1, State: model.Enabled, MaxConnections: 7},
			}}},
	}
	if !reflect.DeepEqual(state, want) {
		t.Errorf("state\n%+v, want\n%+v", state, want)
	}
	if out := b.must(t, "vip remove web --with-pool -o json"); out != "{\n  \"revision\": 30,\n  \"applied\": true,\n  \"summary\": \"removed VIP web and pool green\"\n}\n" {
		t.Errorf("%s", out)
	}
}

// Backends of the NAT modes listen where they like, and are checked there.
func TestTranslatedPorts(t *testing.T) {
	b := newBench(t)
	b.must(t, "vip add web 192.0.2.10:80 --mode nat --backend 10.0.1.10:8080 --backend 10.0.1.10:8081,weight=2")
	b.must(t, "vip add any [2001:db8::10]:any --mode fullnat --backend 10.0.1.10 --backend 2001:db8:1::10")
	if out := b.must(t, "check list web"); !strings.Contains(out, "tcp    tcp   backend's ") {
		t.Errorf("the backends' own ports are not what is checked:\n%s", out)
	}
	if out := b.must(t, "vip list"); !strings.Contains(out, "192.0.2.10:80/tcp       nat ") || !strings.Contains(out, "[2001:db8::10]:any/tcp  fullnat ") {
		t.Errorf("%s", out)
	}
	for line, want := range map[string]string{
		"vip add x 192.0.2.11:80 --mode nat --pool web":                              `VIP "x": mode nat cannot tell whether 10.0.1.10:8080/tcp replies for 192.0.2.11:80 or for 192.0.2.10:80 of VIP "web"; give them pools`,
		"vip set web --add-endpoint [2001:db8::10]:80":                               "mode nat cannot translate between IPv4 and IPv6, from [2001:db8::10]:80 to backend 10.0.1.10:8080",
		"vip set web 192.0.2.10:80-90":                                               "mode nat cannot tell which port of 192.0.2.10:80-90/tcp a reply of backend 10.0.1.10:8080",
		"vip set web --mode fullnat":                                                 "use always",
		"vip set any --fragments hash":                                               "use follow, or mode nat",
		"vip set web --mode dsr-l2":                                                  "mode dsr-l2 cannot translate port 80 to port 8080",
		"vip add x 192.0.2.1:80 --mode nat --backend 10.0.0.1:81 --backend 10.0.0.2": `check "tcp", port: is needed: backend 10.0.0.2 has no port of its own`,
	} {
		if _, errs, exit := b.run(strings.Fields(line)...); exit != 5 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, exit, errs)
		}
	}
	b.must(t, "vip set web --mode fullnat --tracking always --add-endpoint [2001:db8::11]:80")
}

func TestLaggingChangeWarns(t *testing.T) {
	b := newBench(t)
	b.Observe(func(s *model.Status) { s.Applied, s.Error = 0, "pool web: no room for 65537 slots" })
	out, errs, exit := b.run("pool", "add", "web")
	if exit != 0 || !strings.Contains(errs, "not in force yet: pool web: no room") || !strings.Contains(out, "revision 1") {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
	if out := b.must(t, "status"); !strings.Contains(out, "revision 1, but 0 is in force\nerror: pool web: no room for 65537 slots\n") {
		t.Errorf("%s", out)
	}
}

func TestErrors(t *testing.T) {
	b := observed(t)
	for _, row := range []struct {
		line string
		exit int
		want string
	}{
		{"vpi list", 2, `unknown command "steelyard vpi"; did you mean vip?`},
		{"vpi add web 192.0.2.1:80 --backend 10.0.0.1", 2, `unknown command "steelyard vpi"; did you mean vip?`},
		{"vip ad web 192.0.2.1:80 --backend 10.0.0.1", 2, `unknown command "steelyard vip ad"; did you mean add?`},
		{"vip", 2, "say what to do: add, list, remove, set, show"},
		{"backend", 2, "say what to do: add, disable, drain"},
		{"backend drian web 10.0.1.10", 2, "did you mean drain?"},
		{"vip add web", 2, "missing an argument; want: steelyard vip add NAME ENDPOINT ..."},
		{"vip show web dns", 2, `unexpected argument "dns"`},
		{"vip add x 192.0.2.1:80 --bakend 10.0.0.1", 2, "unknown flag --bakend; did you mean --backend?"},
		{"vip list -z", 2, "unknown flag -z"},
		{"vip add x 192.0.2.1:80", 2, "say who serves it"},
		{"vip add x 192.0.2.1:80 --pool web --backend 10.0.0.1", 2, "backends and checks of its own"},
		{"vip set web", 2, "nothing to change"},
		{"check set web http --expect-revision 4", 2, "nothing to change"},
		{"vip show wbe", 3, `no VIP "wbe"; did you mean web?`},
		{"vip remove wbe", 3, `no VIP "wbe"; did you mean web?`},
		{"backend show web 10.0.1.12", 3, `no backend "10.0.1.12" in pool "web"; did you mean 10.0.1.10`},
		{"backend list wbe", 3, `no pool "wbe"; did you mean web?`},
		{"check show web tcp", 3, `no check "tcp" in pool "web"`},
		{"pool remove web", 4, `pool "web" is in use by VIPs shop, web`},
		{"vip add web 192.0.2.1:80 --backend 10.0.0.1", 4, `VIP "web" exists already`},
		{"vip remove web --expect-revision 3", 4, "at revision 6, not 3"},
		{"vip add x 192.0.2.1 --pool web", 5, `"192.0.2.1" has no port; write 192.0.2.1:80, or 192.0.2.1:any for all ports`},
		{"vip add x 2001:db8::1 --pool web", 5, `write [2001:db8::1]:80`},
		{"vip add x www.example.org:80 --pool web", 5, "names are not looked up"},
		{"vip add x 192.0.2.1:http --pool web", 5, `"http" is not a port`},
		{"vip add x 192.0.2.1:80,http --pool web", 5, `endpoint "192.0.2.1:80,http": "http" is not a port: want 1 to 65535, a range such as 8000-8100, or any`},
		{"vip add x 192.0.2.1:80, --pool web", 5, `"" is not a port`},
		{"vip add x 192.0.2.1:90-80 --pool web", 5, `the port range "90-80" ends before it begins`},
		{"vip add x 192.0.2.1:80,192.0.2.2:80 --pool web", 5, "is not an address and ports, such as"},
		{"vip add x 192.0.2.1:80 192.0.2.2 --pool web", 5, `"192.0.2.2" has no port`},
		{"vip add x 192.0.2.1:80 192.0.2.1:80 --pool web", 5, `VIP "x", endpoints: 192.0.2.1:80/tcp is given twice`},
		{"vip add x 192.0.2.1:80-90,85-95 --pool web", 5, `VIP "x", endpoints: 192.0.2.1:85-95/tcp overlaps 192.0.2.1:80-90`},
		{"vip add x 192.0.2.1:80 192.0.2.20:443 --pool web", 5, `VIP "x": overlaps VIP "shop": both have 192.0.2.20:443/tcp`},
		{"vip set web --add-endpoint 192.0.2.1", 5, `"192.0.2.1" has no port`},
		{"vip set web --remove-endpoint 192.0.2.10:81", 3, `no endpoint of VIP web "192.0.2.10:81"; did you mean 192.0.2.10:80?`},
		{"vip set web --remove-endpoint 192.0.2.10:80", 5, `VIP "web", endpoints: has none`},
		{"vip set web --affinity src", 5, `unknown affinity "src"; want flow, source, pool`},
		{"vip set web --affinity-ipv4-prefix 33", 5, "33 bits is out of range 1 to 32"},
		{"vip set web --fragments drop", 5, "want follow, hash"},
		{"vip set web --mss 500", 5, "500 is out of range 536 to 65495"},
		{"vip set web --syn-cookies 100", 5, "mode dsr-ipip does not see what backends answer"},
		{"vip set dns --syn-cookies 100", 5, "only tcp has SYNs, this is udp"},
		{"vip set web --mode nat --syn-cookies 10000001", 5, "10000001 is out of range 1 to 10000000, or 0 to let all SYNs through"},
		{"vip set web --syn-cookies -1", 5, `--syn-cookies "-1"`},
		{"vip set web --mss small", 5, `--mss "small"`},
		{"vip set dns --mss 1400", 5, "only tcp has one, this is udp"},
		{"vip set web --quic", 5, "QUIC runs over udp"},
		{"vip add x 192.0.2.1:80,443 --backend 10.0.0.1 --check http", 5, "port: is needed"},
		{"backend set web 10.0.1.10 --server-id 0:c4605e", 5, "0:c4605e is that of backend 10.0.1.10 already"},
		{"backend set web 10.0.1.10 --server-id 0:01", 5, "others of configuration 0 in the pool have"},
		{"backend set web 10.0.1.10 --server-id c4605e", 5, `"c4605e" is not a server ID: want the configuration`},
		{"backend set web 10.0.1.10 --server-id none --server-id 0:01", 5, `"none" is not a server ID`},
		{"vip add x 192.0.2.1:80 --backend 10.0.0.1,wieght=2", 5, `unknown setting "wieght=2"`},
		{"vip add x 192.0.2.1:80 --backend 10.0.0.1 --check htp", 5, "did you mean http?"},
		{"vip add x 192.0.2.1:80 --backend 10.0.0.1 --protocol tpc", 5, "did you mean tcp?"},
		{"vip add x 224.0.0.1:80 --backend 127.0.0.1", 5, "loopback"},
		{"backend set web 10.0.1.10 --weight 70000", 5, "70000 is out of range 0 to 65535"},
		{"backend set web 10.0.1.10 --max-connections 16777217", 5, "16777217 is out of range 1 to 16777216, or 0 for no limit"},
		{"backend set web 10.0.1.10 --max-connections 20", 5, "remembers no connection of a settled slot, so they cannot be counted; use tracking always or mode fullnat"},
		{"backend add web 10.0.1.19,max_connections=many", 5, `max_connections "many" is not a number from 0 to 16777216`},
		{"backend set web 10.0.1.10 --weight heavy", 5, `--weight "heavy"`},
		{"vip set web --tracking fluks", 5, "did you mean flux?"},
		{"vip set web --idle-timeout 15", 5, `--idle-timeout "15": not a duration`},
		{"vip set web --idle-timeout 25h", 5, "out of range 1s to 24h"},
		{"pool set web --down-grace 2h", 5, "out of range 0s to 1h"},
		{"backend drain web 10.0.1.10 --deadline 0s", 5, "must be more than 0"},
		{"backend remove web 10.0.1.10 --now --deadline 5m", 2, "give one of the two"},
		{"backend remove web 10.0.1.10 10.0.1.11", 4, "is the last one of pool"},
		{"detach", 4, "a daemon is running on"},
		{"detach --pin-path steelyard", 5, "is not an absolute path"},
		{"status -o jsn", 5, `unknown output "jsn"; did you mean json?`},
		{"status --socket /nonexistent/api.sock", 6, "no daemon is listening on /nonexistent/api.sock; start it with: steelyard daemon"},
	} {
		t.Run(row.line, func(t *testing.T) {
			out, errs, exit := b.run(strings.Fields(row.line)...)
			if exit != row.exit || !strings.Contains(errs, row.want) || out != "" {
				t.Errorf("exit %d, want %d; stdout %q; stderr %q lacks %q", exit, row.exit, out, errs, row.want)
			}
			for line := range strings.SplitSeq(strings.TrimSpace(errs), "\n") {
				if !strings.HasPrefix(line, "steelyard: ") {
					t.Errorf("line without prefix: %q", line)
				}
			}
		})
	}
	if _, revision := b.Desired(); revision != 6 {
		t.Errorf("errors made revision %d of 6", revision)
	}
}

func TestEveryViolationIsListed(t *testing.T) {
	_, errs, exit := newBench(t).run(strings.Fields("vip add x 224.0.0.1:80 --backend 127.0.0.1 --backend 0.0.0.0")...)
	if lines := strings.Count(errs, "\n"); exit != 5 || lines != 3 {
		t.Errorf("exit %d, %d lines: %s", exit, lines, errs)
	}
}

func TestDaemonOptions(t *testing.T) {
	b := newBench(t)
	var got cli.DaemonOptions
	b.daemon = func(_ context.Context, o cli.DaemonOptions) error {
		got = o
		return nil
	}
	b.must(t, "daemon --interface eth1,eth2 -i eth3 --store /tmp/s --xdp-mode generic --detach-on-exit")
	want := cli.DaemonOptions{Config: cli.DefaultConfig, Interfaces: []string{"eth1", "eth2", "eth3"}, XDPMode: "generic", Socket: b.socket, Store: "/tmp/s", DetachOnExit: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	b.must(t, "daemon --config x.yaml --socket /run/x.sock")
	want = cli.DaemonOptions{Config: "x.yaml", ConfigRequired: true, Socket: "/run/x.sock"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if _, errs, exit := b.run("daemon", "--xdp-mode", "fast"); exit != 5 || !strings.Contains(errs, "want auto, native or generic") {
		t.Errorf("exit %d, %s", exit, errs)
	}
	b.daemon = func(context.Context, cli.DaemonOptions) error { return errors.New("no such interface: eth9") }
	if _, errs, exit := b.run("daemon"); exit != 1 || errs != "steelyard: no such interface: eth9\n" {
		t.Errorf("exit %d, %s", exit, errs)
	}
}

func TestBackendHost(t *testing.T) {
	b := newBench(t)
	var got cli.BackendOptions
	b.backend = func(_ context.Context, o cli.BackendOptions) error {
		got = o
		return nil
	}
	b.must(t, "backend --vip 192.0.2.10 --vip 2001:db8::10 --balancer 10.0.0.1 --balancer 2001:db8:1::/64 --interface eth0")
	want := cli.BackendOptions{
		VIPs:       []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		Balancers:  []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("2001:db8:1::/64")},
		Interfaces: []string{"eth0"}, Decap: true, GUEPort: 6080,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, port := range []uint16{0, 16080} {
		b.must(t, fmt.Sprintf("backend --vip 192.0.2.10 --balancer 10.0.0.1 -i eth0 --gue-port %d", port))
		if got.GUEPort != port {
			t.Errorf("GUE port %d, want %d", got.GUEPort, port)
		}
	}
	b.must(t, "backend --vip 192.0.2.10 --no-decap -i eth0")
	if got.Decap || len(got.VIPs) != 1 {
		t.Errorf("%+v", got)
	}
	for line, want := range map[string]string{
		"backend --balancer 10.0.0.1":                                  "--vip ADDRESS",
		"backend --vip 192.0.2.10":                                     "--balancer ADDRESS",
		"backend --vip 192.0.2.10 --balancer 10.0.0.1":                 "--interface NAME",
		"backend --vip 192.0.2.10 --no-decap":                          "--interface NAME",
		"backend --vip web --no-decap -i eth0":                         `--vip "web" is not an address`,
		"backend --vip 192.0.2.10 --balancer 10.0.0.1/24 -i eth0":      "write 10.0.0.0/24, or 10.0.0.1",
		"backend --vip 192.0.2.10 --balancer 10.0.0 -i eth0":           "neither an address nor a prefix",
		"backend --vip 192.0.2.10 --no-decap -i eth0 --gue-port 65536": "--gue-port 65536 is no port",
		"backend list --vip 192.0.2.10":                                "unknown flag --vip",
		"backend --vip 192.0.2.10 --no-decap -i eth0 --xdp-mode fast":  "want auto, native or generic",
		"backend --vip 192.0.2.10 --interface":                         "flag needs an argument",
		"backend hots --vip 192.0.2.10 --interface":                    `unknown command "steelyard backend hots"`,
	} {
		if _, errs, exit := b.run(strings.Fields(line)...); exit == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %q lacks %q", line, exit, errs, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	b := observed(t)
	for line, want := range map[string][]string{
		"vip show ":                              {"dns\t[2001:db8::53]:any/udp", "shop\t192.0.2.20:80/tcp and 2 more", "web\t192.0.2.10:80/tcp"},
		"pool show ":                             {"resolvers\t2 backends", "web\t2 backends"},
		"backend drain web ":                     {"10.0.1.10\tenabled", "10.0.1.11\tenabled"},
		"check show resolvers ":                  {"dns\tudp"},
		"vip add x 192.0.2.1:80 --pool ":         {"resolvers\t2 backends", "web\t2 backends"},
		"vip add x 192.0.2.1:80 --protocol ":     {"tcp", "udp"},
		"vip set shop --remove-endpoint ":        {"192.0.2.20:80", "192.0.2.20:443", "[2001:db8::20]:8000-8100"},
		"vip set nosuch --remove-endpoint ":      nil,
		"vip set --remove-endpoint ":             nil,
		"vip set web --affinity ":                {"flow\teach connection for itself", "source\ta client's connections together", "pool\ta client's connections together, to all VIPs of the pool"},
		"vip set web --fragments ":               {"follow\tlater fragments follow the first", "hash\tfragments out of order go by addresses alone"},
		"vip set web --mode ":                    {"dsr-ipip\tencapsulate in IP", "dsr-gue\tencapsulate in UDP", "dsr-l2\trewrite the MAC address", "nat\trewrite the destination; answers come back through the balancer", "fullnat\trewrite source and destination; backends see an address of the balancer"},
		"vip set web --syn-cookies ":             nil,
		"vip set web --mss ":                     nil,
		"backend set web 10.0.1.10 --server-id ": nil,
		"status -o ":                             {"table", "json", "yaml"},
		"backend drain nosuch ":                  nil,
		"vip show --socket /nonexistent ":        nil,
	} {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		out, _, exit := b.run(args...)
		if exit != 0 {
			t.Errorf("%q: exit %d", line, exit)
		}
		var got []string
		for word := range strings.SplitSeq(out, "\n") {
			if word != "" && word[0] != ':' {
				got = append(got, word)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if out := b.must(t, "completion bash"); !strings.Contains(out, "__start_steelyard") {
		t.Errorf("no bash completion: %.100s", out)
	}
}

func TestVersion(t *testing.T) {
	b := newBench(t)
	if out := b.must(t, "version"); !strings.HasPrefix(out, "steelyard 1.2.3 (go") {
		t.Errorf("%q", out)
	}
	if out := b.must(t, "version -o json"); !strings.Contains(out, `"version": "1.2.3"`) {
		t.Errorf("%q", out)
	}
}
