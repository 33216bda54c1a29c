package connections_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// backends of the lab; a scenario's pool begins with some of them.
	backends = 10
	vipPort  = 80
	// controlPort is that of VIP "control" in the modes that translate: answers come from
	// it, and else nothing would tell for which VIP they are.
	controlPort = 81
	// checkPort is what health checks probe, apart from the service.
	checkPort = 8080
	// longIdleTimeout is longer than a scenario: no slot settles in it.
	longIdleTimeout = time.Minute
	// flowTable is how many flows there is room for: plenty for the connections,
	// too few for a flood.
	flowTable = 1 << 15
	// shown is how many broken connections are described one by one.
	shown = 20
)

// site is a lab with a balancer that runs, its backends and the load on it.
type site struct {
	*lab.Lab
	t      *testing.T
	path   path
	config string
	binary string
	daemon *lab.Daemon
	// checked are the servers that health checks probe, in the order of the backends.
	checked []*server
	// web is the load that must not break; control that on a VIP without tracking.
	web, control *load
	// journal is what was done, in order.
	journal []event
}

// event is something that was done to the balancer.
type event struct {
	at   time.Time
	what string
}

func (s *site) note(format string, args ...any) {
	s.journal = append(s.journal, event{time.Now(), fmt.Sprintf(format, args...)})
}

// report logs how connections broke, and what was done when.
func (s *site) report(broken []*connection) {
	s.t.Helper()
	var log strings.Builder
	begin := s.journal[0].at
	for _, e := range s.journal {
		fmt.Fprintf(&log, "%7.3fs %s\n", e.at.Sub(begin).Seconds(), e.what)
	}
	slices.SortFunc(broken, func(a, b *connection) int { return a.ended.Compare(b.ended) })
	for i, c := range broken {
		if i == shown {
			fmt.Fprintf(&log, "and %d more\n", len(broken)-shown)
			break
		}
		fmt.Fprintf(&log, "%7.3fs %v\n", c.ended.Sub(begin).Seconds(), c)
	}
	s.t.Log("what was done, and the first to break:\n" + log.String())
}

// newSite serves both VIPs from pool "web", which has the first few backends.
func newSite(t *testing.T, p path, pool int, idleTimeout time.Duration) *site {
	t.Helper()
	options := lab.Options{Backends: backends}
	if p.translates() {
		options.Return = lab.ReturnGateway
	}
	s := &site{Lab: lab.Start(t, options), t: t, path: p, binary: program(t, "steelyard")}
	s.config = fmt.Sprintf("interfaces: [eth0]\napi:\n  socket: %s\nmetrics:\n  listen: \"\"\nstore: %s\npin_path: %s\nlimits:\n  flows: %d\n",
		s.socket(), filepath.Join(s.Balancer.Dir(), "state.db"), s.BPFFS(), flowTable)
	if p.mode == "fullnat" {
		v4, v6 := lab.SNAT()
		s.config += fmt.Sprintf("nat:\n  source_ipv4: %s\n  source_ipv6: %q\n", v4.Addr(), v6.Addr())
	}
	web, control := s.vip(10, vipPort), s.vip(11, vipPort)
	if p.translates() {
		control = s.vip(11, controlPort)
	}
	s.serve(web, control)
	s.start()
	s.addPool("web", 1, pool)
	for name, vip := range map[string]netip.AddrPort{"web": web, "control": control} {
		s.cli(append([]string{"vip", "add", name, vip.String(), "--pool", "web", "--idle-timeout", idleTimeout.String()}, p.vip(name)...)...)
	}
	s.wait("every backend is reachable", func(status status) error {
		for _, b := range status.pool("web").Backends {
			if b.NextHop.MAC == "" {
				return fmt.Errorf("%s: %s", b.Address, b.NextHop.Problem)
			}
		}
		return nil
	})
	s.web = newLoad(t, s.Client, web, p.transport, idleTimeout)
	s.control = newLoad(t, s.Client, control, p.transport, idleTimeout)
	s.control.stall = controlStall
	return s
}

// program is the path of a binary that `make` built.
func program(t *testing.T, name string) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err == nil {
		_, err = os.Stat(file)
	}
	if err != nil {
		t.Fatalf("%v; build it first: make build build-next", err)
	}
	return file
}

func (s *site) socket() string { return filepath.Join(s.Balancer.Dir(), "api.sock") }

func (s *site) vip(i int, port uint16) netip.AddrPort {
	v4, v6 := lab.VIP(i)
	if s.path.ipv6 {
		return netip.AddrPortFrom(v6, port)
	}
	return netip.AddrPortFrom(v4, port)
}

// address is that of the n-th backend, from 1.
func (s *site) address(n int) string {
	if s.path.ipv6 {
		return s.Backends[n-1].V6.String()
	}
	return s.Backends[n-1].V4.String()
}

// serverID names the n-th backend in connection IDs.
func serverID(n int) []byte { return []byte{0xc4, 0x60, byte(n)} }

// adding is the command that adds the n-th backend to a pool.
func (s *site) adding(pool string, n int) []string {
	add := []string{"backend", "add", pool, s.address(n)}
	if s.path.transport == roaming {
		add = append(add, "--server-id", fmt.Sprintf("0:%x", serverID(n)))
	}
	return add
}

// addPool makes a pool of some of the backends.
func (s *site) addPool(name string, first, last int) {
	s.t.Helper()
	s.cli("pool", "add", name)
	for n := first; n <= last; n++ {
		s.cli(s.adding(name, n)...)
	}
}

// size is how much of everything there is.
func (s *site) size() form { return s.path.transport.size() }

// serve makes every backend answer for the VIPs.
func (s *site) serve(vips ...netip.AddrPort) {
	s.t.Helper()
	balancer := s.Balancer.V4
	if s.path.ipv6 {
		balancer = s.Balancer.V6
	}
	var addresses []netip.Addr
	var ports []uint16
	for _, vip := range vips {
		addresses = append(addresses, vip.Addr())
		if !slices.Contains(ports, vip.Port()) {
			ports = append(ports, vip.Port())
		}
	}
	for i, b := range s.Backends {
		switch {
		case s.path.translates(): // nothing to prepare
		case s.path.mode == "dsr-l2":
			if err := b.PlainDSR(addresses...); err != nil {
				s.t.Fatal(err)
			}
		default:
			if _, err := b.BackendHelper(s.t.Context(), s.binary, addresses, []netip.Addr{balancer}); err != nil {
				s.t.Fatal(err)
			}
		}
		for _, port := range ports {
			s.answer(b, i+1, port)
		}
		s.checked = append(s.checked, newServer(s.t, b, checkPort, func(net.Conn) {}))
	}
}

// answer starts a server of the path's transport on the n-th backend.
func (s *site) answer(b *lab.Host, n int, port uint16) {
	s.t.Helper()
	handle := func(conn net.Conn) { answer(conn, uint64(n)) }
	if s.path.transport == tcp {
		newServer(s.t, b, port, handle)
		return
	}
	o := lab.QUICOptions{Port: port, Handle: handle}
	if s.path.transport == roaming {
		o.ServerID = serverID(n)
	}
	server, err := b.QUIC(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			s.t.Errorf("stop the QUIC server of %s: %v", b.Name, err)
		}
	})
}

// start starts the daemon and returns when it answers.
func (s *site) start() {
	s.t.Helper()
	s.note("start the daemon")
	daemon, err := s.Balancer.Daemon(s.t.Context(), s.binary, s.socket(), s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.daemon = daemon
}

// restart stops the daemon as an operator does, and starts it again.
func (s *site) restart() {
	s.t.Helper()
	s.note("stop the daemon")
	if err := s.daemon.Stop(); err != nil {
		s.t.Fatal(err)
	}
	s.start()
}

// crash kills the daemon at some point of a command, and starts it again. What
// becomes of the command is open.
func (s *site) crash(args ...string) {
	s.t.Helper()
	s.note("kill the daemon in the middle of: %s", strings.Join(args, " "))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.daemon.CLI(args...) // a daemon that is killed may not answer
	}()
	select {
	case <-ended:
	case <-time.After(time.Duration(rand.IntN(100)) * time.Millisecond):
	}
	if err := s.daemon.Kill(); err != nil {
		s.t.Fatal(err)
	}
	<-ended
	s.start()
}

// cli runs a command that has to succeed.
func (s *site) cli(args ...string) string {
	s.t.Helper()
	if args[0] != "status" {
		s.note("%s", strings.Join(args, " "))
	}
	out, err := s.daemon.CLI(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// try runs a command that may be refused.
func (s *site) try(args ...string) {
	if _, err := s.daemon.CLI(args...); err != nil {
		s.note("refused: %s", strings.Join(args, " "))
	} else {
		s.note("%s", strings.Join(args, " "))
	}
}

// flood sends openers to VIP "web" and returns when most of them have come in.
func (s *site) flood(n int) {
	s.t.Helper()
	s.note("flood of %d openers", n)
	before := s.status().openers("web")
	flood(s.t, s.Lab, s.web.target, s.path.transport, n)
	s.wait("the flood has come in", func(now status) error {
		if came := now.openers("web") - before; came < uint64(n)*9/10 {
			return fmt.Errorf("%d of %d came", came, n)
		}
		return nil
	})
}

// talked returns when every connection was answered since the call.
func (s *site) talked() {
	s.t.Helper()
	s.web.talked()
	s.control.talked()
}

// step runs a command and lets everybody feel it.
func (s *site) step(args ...string) {
	s.t.Helper()
	s.cli(args...)
	s.talked()
}

// status is the part of `steelyard status -o json` that the tests look at.
type status struct {
	Version string
	VIPs    []struct {
		Name        string
		Connections uint64
	}
	Pools []poolStatus
	Flows struct {
		Live, Capacity     uint64
		Remembered         uint64
		SlotsInFlux        uint64 `json:"slots_in_flux"`
		Evicted            uint64
		EvictedConnections uint64 `json:"evicted_connections"`
	} `json:"flow_table"`
	NATPorts struct{ Evicted uint64 } `json:"nat_ports"`
}

type poolStatus struct {
	Name      string
	TableSize uint32 `json:"table_size"`
	Backends  []struct {
		Address string
		Health  string
		Slots   uint32
		NextHop struct{ MAC, Problem string } `json:"next_hop"`
	}
}

func (s status) pool(name string) poolStatus {
	i := slices.IndexFunc(s.Pools, func(p poolStatus) bool { return p.Name == name })
	if i < 0 {
		return poolStatus{}
	}
	return s.Pools[i]
}

// openers is how many of them came to a VIP.
func (s status) openers(vip string) uint64 {
	for _, v := range s.VIPs {
		if v.Name == vip {
			return v.Connections
		}
	}
	return 0
}

func (s *site) status() status {
	s.t.Helper()
	var found status
	if err := json.NewDecoder(strings.NewReader(s.cli("status", "-o", "json"))).Decode(&found); err != nil {
		s.t.Fatal(err)
	}
	return found
}

// wait waits until the status is as it should be.
func (s *site) wait(what string, condition func(status) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := lab.WaitFor(ctx, what, func() error { return condition(s.status()) }); err != nil {
		s.t.Fatal(err)
	}
}

// waitHealth waits until the checks say so of the n-th backend.
func (s *site) waitHealth(n int, health string) {
	s.t.Helper()
	s.wait(fmt.Sprintf("backend%d is %s", n, health), func(status status) error {
		for _, b := range status.pool("web").Backends {
			if b.Address == s.address(n) && b.Health != health {
				return fmt.Errorf("it is %s", b.Health)
			}
		}
		return nil
	})
}
