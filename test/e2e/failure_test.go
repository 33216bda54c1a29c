package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/test/lab"
)

// The checks of these tests find a failure within fall intervals and a timeout,
// 0.8 seconds.
const (
	checkInterval = 200 * time.Millisecond
	checkTimeout  = 200 * time.Millisecond
	checkFall     = 3
)

// TestBackendFails has a backend fail in every way that a check can tell, and return.
func TestBackendFails(t *testing.T) {
	t.Parallel()
	vip4, _ := lab.VIP(1)
	_, vip6 := lab.VIP(2)
	r := start(t, lab.Options{}, vip4, vip6)
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, checkFall)
	r.addVIP("web4", vip4, "dsr-l2", "web")
	r.addVIP("web6", vip6, "dsr-ipip", "web")
	r.waitUp("web", r.Backends...)

	victim, others := r.Backends[2], r.Backends[:2]
	for _, way := range []struct {
		name       string
		fail, heal func() error
		results    []string
	}{
		{"stopped", r.servers[victim].Stop, func() error { r.serve(victim); return nil }, []string{"L4CON"}},
		{"hanging", func() error { return r.signal(victim, unix.SIGSTOP) }, func() error { return r.signal(victim, unix.SIGCONT) }, []string{"L7TOUT", "L4TOUT"}},
		{"sick", func() error { return victim.Sick(true) }, func() error { return victim.Sick(false) }, []string{"L7STS"}},
		{"unreachable", func() error { return r.silence(victim, "add") }, func() error { return r.silence(victim, "delete") }, []string{"L4TOUT"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			on := *r
			on.t = t
			on.must(way.fail())
			on.waitUp("web", others...)
			found := on.pool("web").of(victim)
			if found.Health != "down" || !slices.Contains(way.results, found.Checks[0].Result) || found.Checks[0].Detail == "" {
				t.Errorf("%s is %s: %+v, want one of %v", victim.Name, found.Health, found.Checks, way.results)
			}
			for _, address := range []netip.Addr{vip4, vip6} {
				if answers := on.fetch(address, 500); answers[victim.Name] != 0 || len(answers) != len(others) {
					t.Errorf("%s: answers come from %v", address, answers)
				}
			}
			if now := on.pool("web").of(victim); now.Connections != found.Connections {
				t.Errorf("%s was down and got %d connections", victim.Name, now.Connections-found.Connections)
			}

			on.must(way.heal())
			on.waitUp("web", on.Backends...)
			for _, address := range []netip.Addr{vip4, vip6} {
				if answers := on.fetch(address, 200); answers[victim.Name] == 0 {
					t.Errorf("%s: %s is up again and not used: %v", address, victim.Name, answers)
				}
			}
		})
	}
}

// signal sends a signal to a web server and its workers.
func (r *rig) signal(h *lab.Host, s unix.Signal) error {
	master := r.servers[h].PID()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", master))
	if err != nil {
		return err
	}
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, s); err != nil {
			return err
		}
	}
	return unix.Kill(master, s)
}

// silence keeps a host's answers from reaching the balancer itself.
func (r *rig) silence(h *lab.Host, verb string) error {
	_, err := h.Run("ip", "route", verb, "blackhole", r.Balancer.V4.String()+"/32")
	return err
}

// TestAllDown sees what clients meet under each choice of on_all_down.
func TestAllDown(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{Backends: 2}, vip4, vip6)
	vips := []netip.Addr{vip4, vip6}
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, checkFall)
	r.addVIP("web4", vip4, "dsr-l2", "web")
	r.addVIP("web6", vip6, "dsr-ipip", "web")
	r.waitUp("web", r.Backends...)
	sick := func(sick bool) {
		for _, b := range r.Backends {
			r.must(b.Sick(sick))
		}
	}

	// Only the checks fail: whoever got a request would answer it.
	sick(true)
	r.waitUp("web")
	for _, v := range r.status().VIPs {
		if v.Available {
			t.Errorf("VIP %s counts as available with all backends down", v.Name)
		}
	}
	r.nobodyAnswers(vips)

	sick(false)
	r.waitUp("web", r.Backends...)
	r.cli("pool", "set", "web", "--on-all-down", "last-known")
	sick(true)
	r.wait("all backends are down", func() error {
		for _, b := range r.pool("web").Backends {
			if b.Health != "down" {
				return fmt.Errorf("%s is %s", b.Address, b.Health)
			}
		}
		return nil
	})
	// The last table is that of the last one to go.
	slots := 0
	for _, b := range r.pool("web").Backends {
		slots += b.Slots
	}
	if slots != model.DefaultTableSize {
		t.Errorf("last-known: %d slots of %d are owned", slots, model.DefaultTableSize)
	}
	for _, address := range vips {
		r.fetch(address, 200)
	}
}

// nobodyAnswers has a pool without a backend drop, then reset.
func (r *rig) nobodyAnswers(vips []netip.Addr) {
	r.t.Helper()
	for _, address := range vips {
		before := r.status().Reasons["drop_no_backend"]
		err := r.connect(address, time.Second)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			r.t.Errorf("drop: connecting to %s: %v, want no answer", address, err)
		}
		if now := r.status().Reasons["drop_no_backend"]; now <= before {
			r.t.Errorf("drop: drop_no_backend was %d and is %d", before, now)
		}
	}
	r.cli("pool", "set", "web", "--on-all-down", "reset")
	for _, address := range vips {
		if err := r.connect(address, patience); !errors.Is(err, unix.ECONNREFUSED) {
			r.t.Errorf("reset: connecting to %s: %v, want a refusal", address, err)
		}
	}
}

// connect opens one connection from the client, and closes it again.
func (r *rig) connect(address netip.Addr, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	conn, err := r.Client.Dial(ctx, "tcp", endpoint(address), netip.Addr{})
	if err != nil {
		return err
	}
	return conn.Close()
}

// TestFirstSuccess adds a backend before its server runs.
func TestFirstSuccess(t *testing.T) {
	t.Parallel()
	vip, _ := lab.VIP(1)
	r := start(t, lab.Options{}, vip)
	early, others := r.Backends[2], r.Backends[:2]
	r.must(r.servers[early].Stop())

	r.cli("pool", "add", "web", others[0].V4.String(), others[1].V4.String())
	r.addCheck("web", checkInterval, checkTimeout, checkFall)
	r.addVIP("web", vip, "dsr-l2", "web")
	r.waitUp("web", others...)
	r.cli("backend", "add", "web", early.V4.String())
	if b := r.pool("web").of(early); b.Health == "up" || b.Slots != 0 {
		t.Errorf("not yet checked, it is %s with %d slots", b.Health, b.Slots)
	}
	r.wait("the new backend was probed", func() error {
		if b := r.pool("web").of(early); b.Health != "down" {
			return fmt.Errorf("it is %s", b.Health)
		}
		return nil
	})
	if answers := r.fetch(vip, 300); len(answers) != 2 {
		t.Errorf("answers come from %v", answers)
	}
	if b := r.pool("web").of(early); b.Connections != 0 || b.Slots != 0 {
		t.Errorf("it never passed a check and has %d slots, %d connections", b.Slots, b.Connections)
	}
	r.serve(early)
	r.waitUp("web", r.Backends...)
	if answers := r.fetch(vip, 300); answers[early.Name] == 0 {
		t.Errorf("its server runs and it is not used: %v", answers)
	}

	// The control: it was the check that held it back.
	r.must(r.servers[early].Stop())
	r.cli("pool", "add", "unchecked", early.V4.String())
	if b := r.pool("unchecked").of(early); b.Slots == 0 {
		t.Errorf("without checks it is %s with %d slots", b.Health, b.Slots)
	}
}
