package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// patience is how long a condition may take to come true. It is far longer than
// any does, so that a busy machine fails no test.
const patience = 30 * time.Second

// bigBytes is the size of /big on every backend, unless a test asks for another.
const bigBytes = 8 << 20

// rig is a lab with web servers, prepared backends and a daemon.
type rig struct {
	*lab.Lab
	t       *testing.T
	binary  string
	daemon  *lab.Daemon
	servers map[*lab.Host]*lab.Process
	setup
}

// setup is how the hosts of a rig are set up.
type setup struct {
	// vips are the addresses that backends take.
	vips []netip.Addr
	// ports that the web servers listen on; none means 80.
	ports []uint16
	// big is the size of their /big; 0 means bigBytes.
	big int64
	// more is what the daemon's configuration has beside what it must have.
	more string
	// helper are further options of the backend helper.
	helper []string
}

// start builds a rig whose backends take these VIPs. Its daemon has to end with
// exit status 0 when the test ends.
func start(t *testing.T, o lab.Options, vips ...netip.Addr) *rig {
	t.Helper()
	return startWith(t, o, setup{vips: vips})
}

func startWith(t *testing.T, o lab.Options, s setup) *rig {
	t.Helper()
	if s.big == 0 {
		s.big = bigBytes
	}
	r := &rig{Lab: lab.Start(t, o), t: t, servers: map[*lab.Host]*lab.Process{}, setup: s}
	var err error
	if r.binary, err = lab.Binary(); err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Backends {
		r.serve(b)
		if r.Return != lab.ReturnDirect {
			continue // an ordinary server
		}
		if _, err := b.BackendHelper(t.Context(), r.binary, s.vips, []netip.Addr{r.Balancer.V4, r.Balancer.V6}, s.helper...); err != nil {
			t.Fatal(err)
		}
	}
	r.startDaemon()
	t.Cleanup(r.stopDaemon)
	return r
}

func (r *rig) serve(b *lab.Host) {
	r.t.Helper()
	server, err := b.Nginx(r.t.Context(), lab.Site{Ports: r.ports, BigBytes: r.big})
	if err != nil {
		r.t.Fatal(err)
	}
	r.servers[b] = server
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) socket() string { return filepath.Join(r.Balancer.Dir(), "api.sock") }

func (r *rig) config() string {
	interfaces := "[eth0]"
	if r.Interfaces == 2 {
		interfaces = "[eth0, eth1]"
	}
	return fmt.Sprintf("interfaces: %s\napi:\n  socket: %s\nstore: %s\n%s", interfaces, r.socket(), filepath.Join(r.Balancer.Dir(), "state.db"), r.more)
}

func (r *rig) startDaemon() {
	r.t.Helper()
	daemon, err := r.Balancer.Daemon(r.t.Context(), r.binary, r.socket(), r.config())
	r.must(err)
	r.daemon = daemon
}

// stopDaemon wants the daemon to end well. Its program stays, and balances on.
func (r *rig) stopDaemon() {
	r.t.Helper()
	if err := errors.Join(r.daemon.Stop(), r.daemon.Err()); err != nil {
		r.t.Errorf("the daemon ended with: %v", err)
	}
	if on := programs(r.t, r.Balancer); len(on) != r.Interfaces {
		r.t.Errorf("a stopped daemon left its program on %v, want %d interfaces", on, r.Interfaces)
	}
	if _, err := os.Lstat(r.socket()); !errors.Is(err, os.ErrNotExist) {
		r.t.Errorf("a stopped daemon left its socket: %v", err)
	}
}

// programs lists the devices of a host that have an XDP program.
func programs(t *testing.T, h *lab.Host) []string {
	t.Helper()
	out, err := h.Run("ip", "-j", "link", "show")
	if err != nil {
		t.Fatal(err)
	}
	var devices []struct {
		Name string          `json:"ifname"`
		XDP  json.RawMessage `json:"xdp"`
	}
	if err := json.Unmarshal([]byte(out), &devices); err != nil {
		t.Fatalf("ip -j link show: %v", err)
	}
	var on []string
	for _, d := range devices {
		if d.XDP != nil {
			on = append(on, d.Name)
		}
	}
	return on
}

// cli runs a command that has to succeed.
func (r *rig) cli(args ...string) string {
	r.t.Helper()
	out, err := r.daemon.CLI(args...)
	r.must(err)
	return out
}

// refused runs a command that has to fail with this exit code, and returns what
// it said.
func (r *rig) refused(code int, args ...string) string {
	r.t.Helper()
	out, err := r.daemon.CLI(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		r.t.Errorf("steelyard %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, out)
		return ""
	}
	return err.Error()
}

// show reads what a command prints with -o json.
func show[T any](r *rig, args ...string) T {
	r.t.Helper()
	var value T
	if err := json.Unmarshal([]byte(r.cli(append(args, "-o", "json")...)), &value); err != nil {
		r.t.Fatalf("steelyard %s -o json: %v", strings.Join(args, " "), err)
	}
	return value
}

type counters struct {
	Packets     uint64 `json:"packets"`
	Connections uint64 `json:"connections"`
}

type backend struct {
	Address netip.Addr `json:"address"`
	State   string     `json:"state"`
	Weight  int        `json:"weight"`
	Health  string     `json:"health"`
	Slots   int        `json:"slots"`
	counters
	Checks []struct {
		Result string `json:"result"`
		Detail string `json:"detail"`
	} `json:"checks"`
}

type pool struct {
	Name     string    `json:"name"`
	Backends []backend `json:"backends"`
}

type vip struct {
	Name      string     `json:"name"`
	Address   netip.Addr `json:"address"`
	Mode      string     `json:"mode"`
	Pool      string     `json:"pool"`
	Available bool       `json:"available"`
	counters
}

type status struct {
	Revision uint64            `json:"revision"`
	Applied  uint64            `json:"applied_revision"`
	Error    string            `json:"error"`
	VIPs     []vip             `json:"vips"`
	Pools    []pool            `json:"pools"`
	Reasons  map[string]uint64 `json:"reasons"`
}

func (r *rig) status() status { r.t.Helper(); return show[status](r, "status") }

func (r *rig) pool(name string) pool { r.t.Helper(); return show[pool](r, "pool", "show", name) }

// of finds a host among the pool's backends.
func (p pool) of(h *lab.Host) backend {
	for _, b := range p.Backends {
		if b.Address == h.V4 || b.Address == h.V6 {
			return b
		}
	}
	return backend{}
}

// slots are the slots of each host.
func (p pool) slots(hosts []*lab.Host) map[*lab.Host]int {
	slots := map[*lab.Host]int{}
	for _, h := range hosts {
		slots[h] = p.of(h).Slots
	}
	return slots
}

// wait waits until a condition returns nil.
func (r *rig) wait(what string, condition func() error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	r.must(lab.WaitFor(ctx, what, condition))
}

// waitUp waits until exactly these backends of a pool are up and have slots.
func (r *rig) waitUp(name string, up ...*lab.Host) {
	r.t.Helper()
	r.wait(fmt.Sprintf("of pool %s, %d backends have slots", name, len(up)), func() error {
		p := r.pool(name)
		for _, h := range r.Backends {
			is, want := p.of(h), slices.Contains(up, h)
			if is.Address.IsValid() && (is.Health == "up") != want || (is.Slots > 0) != want {
				return fmt.Errorf("%s is %s with %d slots: %+v", h.Name, is.Health, is.Slots, is.Checks)
			}
		}
		return nil
	})
}

// addPool adds a pool of all backends, with the weights 1, 2, 3 ...
func (r *rig) addPool(name string, address func(*lab.Host) netip.Addr, options ...string) {
	r.t.Helper()
	add := []string{"pool", "add", name}
	for i, b := range r.Backends {
		add = append(add, fmt.Sprintf("%s,weight=%d", address(b), i+1))
	}
	r.cli(append(add, options...)...)
}

// addCheck gives a pool a check that asks for /healthz.
func (r *rig) addCheck(pool string, interval, timeout time.Duration, fall int) {
	r.t.Helper()
	r.cli("check", "add", pool, "http", "--port", "80", "--path", "/healthz",
		"--interval", interval.String(), "--timeout", timeout.String(), "--rise", "2", "--fall", fmt.Sprint(fall))
}

func (r *rig) addVIP(name string, address netip.Addr, mode, pool string) {
	r.t.Helper()
	r.cli("vip", "add", name, endpoint(address), "--mode", mode, "--pool", pool)
}

func endpoint(address netip.Addr) string { return netip.AddrPortFrom(address, 80).String() }

func url(address netip.Addr, path string) string { return "http://" + endpoint(address) + path }

func v4(h *lab.Host) netip.Addr { return h.V4 }

func v6(h *lab.Host) netip.Addr { return h.V6 }

// fetch sends requests from the client, all of which have to be answered.
func (r *rig) fetch(address netip.Addr, n int) map[string]int {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*patience)
	defer cancel()
	answers := r.Client.Fetch(ctx, url(address, "/"), n, 16)
	if answers.Good() != n || answers.Failed() > 0 {
		r.t.Errorf("%d of %d requests to %s were answered: %v", answers.Good(), n, address, answers.Failures)
	}
	return answers.Bodies
}
