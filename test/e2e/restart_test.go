package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestRestart stops the daemon, once as asked for and once by force. Traffic goes on
// without it, and everything comes back from the store.
func TestRestart(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{Interfaces: 2}, vip4, vip6)
	r.addPool("web", v6, "--on-all-down", "reset")
	// So slow that none passes or fails while the daemon starts.
	r.addCheck("web", time.Minute, 30*time.Second, 3)
	r.addVIP("web4", vip4, "dsr-ipip", "web")
	r.addVIP("web6", vip6, "dsr-l2", "web")
	r.waitUp("web", r.Backends...)
	before := r.status()
	for _, how := range []struct {
		name string
		stop func()
	}{
		{"SIGTERM", r.stopDaemon},
		{"SIGKILL", func() { r.must(r.daemon.Kill()) }},
	} {
		how.stop()
		for _, address := range []netip.Addr{vip4, vip6} {
			if answers := r.fetch(address, 300); len(answers) != len(r.Backends) {
				t.Errorf("after %s, without a daemon: answers of %s come from %v", how.name, address, answers)
			}
		}
		// Hanging servers pass no check: what is up now is so from the store.
		for _, b := range r.Backends {
			r.must(r.signal(b, unix.SIGSTOP))
		}
		r.startDaemon()
		r.waitUp("web", r.Backends...)
		for _, b := range r.Backends {
			r.must(r.signal(b, unix.SIGCONT))
		}
		after := r.status()
		if after.Revision != before.Revision || after.Applied != before.Revision {
			t.Errorf("after %s: revision %d was %d, %d is applied", how.name, after.Revision, before.Revision, after.Applied)
		}
		if was, is := desired(before), desired(after); was != is {
			t.Errorf("after %s:\nwas %s\nis  %s", how.name, was, is)
		}
		for _, address := range []netip.Addr{vip4, vip6} {
			if answers := r.fetch(address, 300); len(answers) != len(r.Backends) {
				t.Errorf("after %s: answers of %s come from %v", how.name, address, answers)
			}
		}
	}
}

// TestDetach: who wants the program gone when the daemon ends says so, before or after.
func TestDetach(t *testing.T) {
	t.Parallel()
	vip, _ := lab.VIP(1)
	r := start(t, lab.Options{Interfaces: 2, Backends: 1}, vip)
	r.addPool("web", v4)
	r.addVIP("web", vip, "dsr-l2", "web")
	r.waitUp("web", r.Backends...)
	pins := filepath.Join(r.BPFFS(), r.Balancer.Name)
	if _, err := r.daemon.CLI("detach", "--pin-path", pins); err == nil {
		t.Error("detached under a daemon that runs")
	}
	r.stopDaemon()
	if err := r.connect(vip, time.Second); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	if _, err := r.daemon.CLI("detach", "--pin-path", pins); err != nil {
		t.Error(err)
	}
	if on := programs(t, r.Balancer); len(on) > 0 {
		t.Errorf("after detach, the program is on %v", on)
	}
	// The control: nobody answers for the VIP then.
	if err := r.connect(vip, 500*time.Millisecond); err == nil {
		t.Error("connected without the program")
	}
	daemon, err := r.Balancer.Daemon(t.Context(), r.binary, r.socket(), r.config()+"detach_on_exit: true\n")
	r.must(err)
	if err := r.connect(vip, time.Second); err != nil {
		t.Errorf("with a daemon again: %v", err)
	}
	r.must(daemon.Stop())
	if on := programs(t, r.Balancer); len(on) > 0 {
		t.Errorf("with detach_on_exit, the program is on %v", on)
	}
	r.startDaemon()
}

// desired renders what the operator asked for and the slots that follow from it.
func desired(s status) string {
	var out strings.Builder
	for _, v := range s.VIPs {
		fmt.Fprintln(&out, v.Name, v.Address, v.Mode, v.Pool)
	}
	for _, p := range s.Pools {
		for _, b := range p.Backends {
			fmt.Fprintln(&out, p.Name, b.Address, b.State, b.Weight, b.Health, b.Slots)
		}
	}
	return out.String()
}

// TestDescriptors adds and removes things many times; the daemon must not have
// more open afterwards.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	vip, _ := lab.VIP(1)
	r := start(t, lab.Options{Backends: 1}, vip)
	open := func() int {
		entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(r.daemon.PID()), "fd"))
		r.must(err)
		return len(entries)
	}
	cycle := func() {
		r.cli("vip", "add", "web", endpoint(vip), "--mode", "dsr-l2", "--backend", r.Backends[0].V4.String())
		r.cli("vip", "remove", "web", "--with-pool")
	}
	cycle()
	before := open()
	for range 50 {
		cycle()
	}
	r.wait(fmt.Sprintf("at most %d descriptors are open", before), func() error {
		if now := open(); now > before {
			return fmt.Errorf("there are %d", now)
		}
		return nil
	})
	t.Logf("%d descriptors before, %d after", before, open())
}
