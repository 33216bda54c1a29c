package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestEndpoints balances several addresses with one VIP, and takes one away and
// gives it back while the others go on.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	more4, _ := lab.VIP(2)
	r := start(t, lab.Options{Backends: 2}, vip4, vip6, more4)
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, 10)
	r.waitUp("web", r.Backends...)
	r.cli("vip", "add", "web", endpoint(vip4), endpoint(vip6), more4.String()+":79-81", "--pool", "web")
	all := []netip.Addr{vip4, vip6, more4}
	for _, address := range all {
		if answers := r.fetch(address, 100); len(answers) != len(r.Backends) {
			t.Errorf("answers of %s come from %v", address, answers)
		}
	}
	r.cli("vip", "set", "web", "--remove-endpoint", endpoint(vip4))
	if err := r.connect(vip4, time.Second); err == nil {
		t.Errorf("connected to %s, which is no endpoint any more", vip4)
	}
	r.fetch(vip6, 20)
	r.fetch(more4, 20)
	r.cli("vip", "set", "web", "--add-endpoint", vip4.String()+":any")
	for _, address := range all {
		r.fetch(address, 20)
	}
	// Endpoints that are given replace what there is.
	r.cli("vip", "set", "web", endpoint(vip4))
	r.fetch(vip4, 20)
	if err := r.connect(vip6, time.Second); err == nil {
		t.Errorf("connected to %s, which is no endpoint any more", vip6)
	}
}

// TestAffinity sends all that a network asks of a VIP to one backend, and all that
// it asks of the VIPs of a pool. The client's connections come from a /24 and a /64.
func TestAffinity(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	more4, _ := lab.VIP(2)
	r := start(t, lab.Options{Backends: 3}, vip4, vip6, more4)
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, 10)
	r.waitUp("web", r.Backends...)
	r.cli("vip", "add", "source", endpoint(vip4), endpoint(vip6), "--pool", "web",
		"--affinity", "source", "--affinity-ipv4-prefix", "24", "--affinity-ipv6-prefix", "64")
	for _, address := range []netip.Addr{vip4, vip6} {
		if answers := r.fetch(address, 100); len(answers) != 1 {
			t.Errorf("answers of %s come from %v", address, answers)
		}
	}
	r.cli("vip", "remove", "source")
	r.cli("vip", "add", "one", endpoint(vip4), "--pool", "web", "--affinity", "pool", "--affinity-ipv4-prefix", "24")
	r.cli("vip", "add", "two", endpoint(more4), "--pool", "web", "--affinity", "pool", "--affinity-ipv4-prefix", "24", "--mode", "dsr-l2")
	one, two := r.fetch(vip4, 100), r.fetch(more4, 100)
	if len(one) != 1 || len(two) != 1 {
		t.Errorf("answers come from %v and %v", one, two)
	}
	for name := range one {
		if two[name] == 0 {
			t.Errorf("two VIPs of a pool answer from %v and %v", one, two)
		}
	}
	// The control: each address is a client of its own.
	r.cli("vip", "remove", "one")
	r.cli("vip", "add", "control", endpoint(vip4), "--pool", "web", "--affinity", "source")
	if answers := r.fetch(vip4, 100); len(answers) != len(r.Backends) {
		t.Errorf("answers to 100 addresses come from %v", answers)
	}
}
