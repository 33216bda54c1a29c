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

// TestRestart stops the daemon, once as asked for and once by force. Everything
// comes back from the store.
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
		r.wait("no program is on the interfaces", func() error {
			if on := programs(t, r.Balancer); len(on) > 0 {
				return fmt.Errorf("it is on %v", on)
			}
			return nil
		})
		// The control: without the daemon nobody answers for the VIP.
		if err := r.connect(vip4, 500*time.Millisecond); err == nil {
			t.Errorf("after %s: connected without a daemon", how.name)
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
