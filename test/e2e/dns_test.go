package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestDNS asks name servers through one address, over UDP and TCP: two VIPs of a
// pool. An answer that is too large for UDP is asked for again over TCP, and many
// questions are spread over all servers.
func TestDNS(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{}, setup{vips: vipsOf(all)})
	// They listen on their own addresses too, where checks ask.
	r.nameServers(vipsOf(all)...)
	for pool, address := range map[string]func(*lab.Host) netip.Addr{"v4": v4, "v6": v6} {
		r.addPool(pool, address)
		r.cli("check", "add", pool, "tcp", "--port", "53", "--interval", checkInterval.String(), "--timeout", checkTimeout.String(), "--fall", "10")
		r.waitUp(pool, r.Backends...)
	}
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			at := netip.AddrPortFrom(w.vip, 53).String()
			on.cli("vip", "add", w.name+"-tcp", at, "--mode", w.mode, "--pool", w.pool)
			on.cli("vip", "add", w.name+"-udp", at, "--protocol", "udp", "--tracking", "flux", "--mode", w.mode, "--pool", w.pool)
			on.dns(w.vip, w.name)
		})
	}
}

// nameServers starts one on every backend, on its own addresses and these.
func (r *rig) nameServers(also ...netip.Addr) {
	r.t.Helper()
	large := strings.Repeat(`"`+strings.Repeat("steelyard", 25)+`" `, 20)
	for _, b := range r.Backends {
		_, err := b.NSD(r.t.Context(), lab.Zone{Name: "example.org", Records: []string{
			fmt.Sprintf(`*.who TXT "%s"`, b.Name), "large TXT " + large, "www A 192.0.2.80", "www AAAA 2001:db8::80",
		}}, append(also, b.V4, b.V6)...)
		r.must(err)
	}
}

// dns asks for small and large answers, over both protocols.
func (r *rig) dns(vip netip.Addr, name string) {
	r.t.Helper()
	dig := func(args ...string) string {
		r.t.Helper()
		out, err := r.Client.Run("kdig", append([]string{"@" + vip.String(), "+timeout=5", "+retry=0"}, args...)...)
		r.must(err)
		return out
	}
	for _, protocol := range []string{"+notcp", "+tcp"} {
		if got := dig(protocol, "+short", "www.example.org", "A", "www.example.org", "AAAA"); got != "192.0.2.80\n2001:db8::80\n" {
			r.t.Errorf("%s: the addresses are %q", protocol, got)
		}
		servers := map[string]int{}
		questions := []string{protocol, "+short"}
		for i := range 100 {
			questions = append(questions, fmt.Sprintf("n%d.who.example.org", i), "TXT")
		}
		for line := range strings.Lines(dig(questions...)) {
			servers[strings.Trim(line, "\"\n")]++
		}
		sum := 0
		for _, b := range r.Backends {
			sum += servers[b.Name]
			if servers[b.Name] == 0 {
				r.t.Errorf("%s: %s answers nothing: %v", protocol, b.Name, servers)
			}
		}
		if sum != 100 || len(servers) != len(r.Backends) {
			r.t.Errorf("%s: 100 questions are answered by %v", protocol, servers)
		}
	}

	// The large answer is cut off over UDP, and whole over TCP.
	if got := dig("+notcp", "+ignore", "large.example.org", "TXT"); !strings.Contains(got, " tc") || strings.Contains(got, "steelyard") {
		r.t.Errorf("over UDP, the large answer is\n%s", got)
	}
	before := r.connections(name + "-tcp")
	got := dig("large.example.org", "TXT")
	if want := 20 * 25; strings.Count(got, "steelyard") != want || !strings.Contains(got, "(TCP)") {
		r.t.Errorf("of the large answer, %d of %d words arrive:\n%s", strings.Count(got, "steelyard"), want, got)
	}
	if n := r.connections(name+"-tcp") - before; n != 1 {
		r.t.Errorf("the large answer took %d connections", n)
	}
}

// connections are those of a VIP so far.
func (r *rig) connections(name string) uint64 {
	r.t.Helper()
	for _, v := range r.status().VIPs {
		if v.Name == name {
			return v.Connections
		}
	}
	r.t.Fatalf("there is no VIP %s", name)
	return 0
}
