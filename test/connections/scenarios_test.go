package connections_test

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scenario is something that operators do, or that happens to them.
type scenario struct {
	name string
	// pool is how many backends there are at first; the others stand by.
	pool int
	// idleTimeout of the VIPs; 0 means [longIdleTimeout].
	idleTimeout time.Duration
	// also are the paths besides TCP over dsr-l2 that the short form takes.
	also    []path
	disturb func(*site)
}

func scenarios() []scenario {
	times := strconv.Itoa(tcp.size().repetitions)
	var (
		ipip6   = path{mode: "dsr-ipip", ipv6: true}
		gue     = path{mode: "dsr-gue"}
		onQUIC  = path{mode: "dsr-ipip", transport: quic}
		onQUIC6 = path{mode: "dsr-gue", ipv6: true, transport: quic}
		roams   = path{mode: "dsr-gue", transport: roaming}
		roams6  = path{mode: "dsr-ipip", ipv6: true, transport: roaming}
		nat     = path{mode: "nat"}
		nat6    = path{mode: "nat", ipv6: true}
		fullnat = path{mode: "fullnat"}
		full6   = path{mode: "fullnat", ipv6: true}
	)
	return []scenario{
		{name: "add-5-backends", pool: 5, also: []path{ipip6, nat6}, disturb: addBackends},
		{name: "drain-5-backends", pool: 10, also: []path{ipip6, onQUIC, roams, nat, full6}, disturb: drainBackends},
		{name: "drain-a-newcomer", pool: 5, disturb: drainNewcomer},
		{name: "change-weights", pool: 10, disturb: changeWeights},
		{name: "flap-check-" + times, pool: 10, also: []path{onQUIC, fullnat}, disturb: flapCheck},
		{name: "replace-all-one-by-one", pool: 5, also: []path{ipip6, gue, roams6, nat6, fullnat}, disturb: replaceAll},
		{name: "move-vip-to-another-pool", pool: 5, also: []path{roams}, disturb: moveVIP},
		{name: "blue-green-and-back", pool: 5, also: []path{roams}, disturb: blueGreen},
		{name: "change-table-size", pool: 10, disturb: changeTableSize},
		{name: "restart-daemon-" + times, pool: 10, also: []path{nat, fullnat}, disturb: restartDaemon},
		{name: "kill-9-daemon-" + times, pool: 10, also: []path{onQUIC6, nat, full6}, disturb: killDaemon},
		{name: "upgrade", pool: 10, also: []path{onQUIC, nat, fullnat}, disturb: upgrade},
		{name: "change-limits", pool: 10, disturb: changeLimits},
		{name: "syn-flood-during-drain", pool: 10, disturb: floodDuringDrain},
	}
}

// paths are where a scenario runs: in the long form, every mode in both families with
// TCP, and both kinds of QUIC in both families.
func (sc scenario) paths() []path {
	paths := []path{{mode: "dsr-l2"}}
	if !full() {
		return append(paths, sc.also...)
	}
	return append(paths,
		path{mode: "dsr-l2", ipv6: true},
		path{mode: "dsr-ipip"},
		path{mode: "dsr-ipip", ipv6: true},
		path{mode: "dsr-gue"},
		path{mode: "dsr-gue", ipv6: true},
		path{mode: "dsr-ipip", transport: quic},
		path{mode: "dsr-gue", ipv6: true, transport: quic},
		path{mode: "dsr-ipip", ipv6: true, transport: roaming},
		path{mode: "dsr-gue", transport: roaming},
		path{mode: "nat"},
		path{mode: "nat", ipv6: true, transport: quic},
		path{mode: "nat", transport: roaming},
		path{mode: "fullnat"},
		path{mode: "fullnat", ipv6: true},
		path{mode: "fullnat", transport: quic},
		path{mode: "fullnat", ipv6: true, transport: roaming},
	)
}

func TestScenarios(t *testing.T) {
	for _, sc := range scenarios() {
		for _, p := range sc.paths() {
			name := sc.name + p.suffix()
			t.Run(name, func(t *testing.T) { sc.run(t, name, p) })
		}
	}
}

func (sc scenario) run(t *testing.T, name string, p path) {
	s := newSite(t, p, sc.pool, cmp.Or(sc.idleTimeout, longIdleTimeout))
	s.web.open(s.size().connections)
	s.control.open(s.size().control)
	s.web.welcome()
	sc.disturb(s)
	connections, broken := s.web.finish()
	_, lost := s.control.finish()
	fmt.Fprintf(os.Stdout, "scenario=%s connections=%d broken=%d control_broken=%d\n", name, connections, len(broken), len(lost))
	if len(broken) > 0 {
		t.Errorf("%d of %d connections are broken", len(broken), connections)
		s.report(broken)
	}
	if len(lost) == 0 {
		t.Error("the control lost nothing: this scenario does not test what it should")
	}
}

func addBackends(s *site) {
	for n := 6; n <= backends; n++ {
		s.step(s.adding("web", n)...)
	}
}

func drainBackends(s *site) {
	for n := 6; n <= backends; n++ {
		s.step("backend", "drain", "web", s.address(n))
	}
}

// drainNewcomer drains backends that no slot ever settled on: only the flow table
// knows their connections, and it may not have been swept since they began.
func drainNewcomer(s *site) {
	for n := 6; n <= backends; n++ {
		s.step(s.adding("web", n)...)
		s.web.open(s.size().connections / 10)
		s.cli("backend", "drain", "web", s.address(n))
		if n%2 == 0 {
			s.restart()
		}
		s.talked()
	}
}

func changeWeights(s *site) {
	for round := 1; round <= 3; round++ {
		for n := round; n <= backends; n += 3 {
			s.step("backend", "set", "web", s.address(n), "--weight", strconv.Itoa(n*round))
		}
	}
}

// flapCheck makes the check of a backend fail while its service goes on.
func flapCheck(s *site) {
	s.cli("check", "add", "web", "tcp", "--port", strconv.Itoa(checkPort),
		"--interval", "100ms", "--timeout", "100ms", "--rise", "1", "--fall", "1")
	for n := range backends {
		s.waitHealth(n+1, "up")
	}
	for range s.size().repetitions {
		s.note("the check of backend1 fails")
		s.checked[0].refuse()
		s.waitHealth(1, "down")
		s.talked()
		s.note("the check of backend1 passes")
		s.checked[0].listen(s.t)
		s.waitHealth(1, "up")
		s.talked()
	}
}

func replaceAll(s *site) {
	for n := 1; n <= 5; n++ {
		s.step(s.adding("web", n+5)...)
		s.step("backend", "drain", "web", s.address(n))
	}
}

// moveVIP moves to another pool and back before the first move has settled,
// while backends of both pools come and go.
func moveVIP(s *site) {
	s.addPool("other", 6, backends)
	for _, pool := range []string{"other", "web"} {
		for _, vip := range []string{"web", "control"} {
			s.cli("vip", "set", vip, "--pool", pool)
		}
		s.talked()
		s.step("backend", "drain", "web", s.address(1))
		s.step("backend", "drain", "other", s.address(6))
		s.step("backend", "enable", "web", s.address(1))
	}
}

// blueGreen moves to another pool, thinks better of it after some connections
// have begun there, and cleans that pool away at once, though not before another
// VIP has looked in.
func blueGreen(s *site) {
	s.addPool("green", 6, backends)
	s.cli("vip", "set", "control", "--pool", "green")
	s.step("vip", "set", "web", "--pool", "green")
	s.web.open(s.size().connections / 4)
	s.cli("vip", "set", "control", "--pool", "web")
	s.step("vip", "set", "web", "--pool", "web")
	s.step("backend", "remove", "green", s.address(6), s.address(7))
	s.step("vip", "set", "control", "--pool", "green")
	s.restart()
	s.step("vip", "set", "control", "--pool", "web")
	s.step("backend", "remove", "green", s.address(8), s.address(9), "--now")
	s.restart()
	for _, pool := range []string{"green", "web"} {
		s.step("vip", "set", "control", "--pool", pool)
		s.step("vip", "set", "web", "--pool", pool)
	}
	s.try("pool", "remove", "green") // it may be refused while it has flows
}

// changeTableSize changes again, and backends too, before the first change has settled.
func changeTableSize(s *site) {
	s.step("pool", "set", "web", "--table-size", "131071")
	s.step("backend", "drain", "web", s.address(6))
	s.step("pool", "set", "web", "--table-size", "32771")
	s.step("backend", "enable", "web", s.address(6))
	s.step("pool", "set", "web", "--table-size", "65537")
}

// restartDaemon restarts while slots are in flux, with changes in between.
func restartDaemon(s *site) {
	s.step("backend", "drain", "web", s.address(1))
	for i := range s.size().repetitions {
		s.restart()
		s.step("backend", []string{"drain", "enable"}[i%2], "web", s.address(2))
	}
}

// killDaemon kills in the middle of changes.
func killDaemon(s *site) {
	s.step("backend", "drain", "web", s.address(1))
	for i := range s.size().repetitions {
		s.crash("backend", []string{"drain", "enable"}[i%2], "web", s.address(2), s.address(3))
		s.talked()
	}
}

// upgrade swaps the program while slots are in flux, and moves them on by the new one.
func upgrade(s *site) {
	s.step("backend", "drain", "web", s.address(1), s.address(2))
	before := s.status().Version
	s.binary = program(s.t, "steelyard-next")
	s.restart()
	if after := s.status().Version; after == before {
		s.t.Fatalf("both binaries are version %s: there is no upgrade", after)
	}
	s.talked()
	s.step("backend", "enable", "web", s.address(1))
	s.step("backend", "drain", "web", s.address(3))
}

// changeLimits carries everything over into maps of other sizes, and back.
func changeLimits(s *site) {
	s.step("backend", "drain", "web", s.address(1), s.address(2))
	former := s.config
	for _, flows := range []int{4 * flowTable, flowTable} {
		s.config = strings.ReplaceAll(former, fmt.Sprintf("flows: %d", flowTable), fmt.Sprintf("flows: %d", flows))
		s.restart()
		if now := s.status().Flows.Capacity; now != uint64(flows) {
			s.t.Fatalf("the flow table has room for %d, want %d", now, flows)
		}
		s.step("backend", "drain", "web", s.address(3))
		s.step("backend", "enable", "web", s.address(1))
	}
}

// floodDuringDrain meets connections that began before the drain, and others
// that began during it and are known to the flow table alone.
func floodDuringDrain(s *site) {
	s.step("backend", "drain", "web", s.address(6), s.address(7), s.address(8))
	s.web.open(s.size().connections / 4)
	s.flood(s.size().flood)
	s.step("backend", "drain", "web", s.address(9), s.address(10))
	s.step("backend", "enable", "web", s.address(6), s.address(7))
	now := s.status()
	if s.path.mode == "fullnat" {
		// It remembers ports instead. Those that the flood has taken give way first.
		if now.NATPorts.Evicted == 0 {
			s.t.Error("the flood left ports free: it does not test what it should")
		}
		return
	}
	if flows := now.Flows; flows.Evicted == 0 || flows.EvictedConnections != 0 {
		s.t.Errorf("the flood made %d entries of the flow table give way, %d of them connections; want many, and none",
			flows.Evicted, flows.EvictedConnections)
	}
}
