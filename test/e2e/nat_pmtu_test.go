package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestNATPathMTUToBackends uploads on a way to backends that is narrower than the
// client's: the balancer tells the client, in terms of the client's packets.
func TestNATPathMTUToBackends(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Interfaces: 2}, setup{}, func(r *rig, ways []way) {
		// The route is narrow, not the device: answers are not.
		for _, route := range []string{"10.0.0.0/24 src " + r.Balancer.V4.String(), "2001:db8:2::/64 metric 256"} {
			_, err := r.Balancer.Run("ip", strings.Fields(fmt.Sprintf("route change %s dev eth1 proto kernel mtu %d", route, narrow))...)
			r.must(err)
		}
		r.addNATPools()
		r.addNATVIPs(ways)
		file, small := randomFile(r.t, largeBytes), randomFile(r.t, 1<<17)
		for _, w := range ways {
			r.t.Run(w.name, func(t *testing.T) {
				on := r.within(t)
				on.wait("the client learns of the route's MTU", func() error {
					on.upload(w.vip, small, w.name)
					if got := on.learnt(on.Client, w.vip, netip.Addr{}); got != narrow-w.outer {
						return fmt.Errorf("it is %d, want %d", got, narrow-w.outer)
					}
					return nil
				})
				on.upload(w.vip, file, w.name)
			})
		}
	})
}

// TestNATPathMTUToClients downloads on a way to clients that is narrower than the
// backends'. What a router says on it reaches the backend that it is about, which
// makes its packets as small as the way needs. Under fullnat it learns so of the
// address that it sees.
func TestNATPathMTUToClients(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Transit: narrow}, setup{big: largeBytes, more: oneSource("1024-65535")}, func(r *rig, ways []way) {
		r.addNATPools()
		r.addNATVIPs(ways)
		for i, w := range ways {
			r.t.Run(w.name, func(t *testing.T) { r.within(t).backendLearns(w, source(w.vip, 100+i)) })
		}
		r.dropsNothing()
	})
}

// TestNATPathMTUAtTheBalancer downloads through an interface of the balancer's that is
// narrower than that which answers come in by: the balancer tells the backend.
func TestNATPathMTUAtTheBalancer(t *testing.T) {
	t.Parallel()
	eachNAT(t, lab.Options{Interfaces: 2}, setup{big: largeBytes, more: oneSource("1024-65535")}, func(r *rig, ways []way) {
		for host, device := range map[*lab.Host]string{r.Balancer: "eth0", r.Router: r.Balancer.Name} {
			_, err := host.Run("ip", "link", "set", "dev", device, "mtu", fmt.Sprint(narrow))
			r.must(err)
		}
		r.addNATPools()
		r.addNATVIPs(ways)
		for i, w := range ways {
			r.t.Run(w.name, func(t *testing.T) { r.within(t).backendLearns(w, source(w.vip, 100+i)) })
		}
	})
}

// backendLearns downloads, and sees that the backend that served, and no other, knows
// how large packets may be to get through what is narrow.
func (r *rig) backendLearns(w way, client netip.Addr) {
	r.t.Helper()
	for _, b := range r.Backends {
		// What it learnt of an address that stands for all clients.
		for _, family := range []string{"-4", "-6"} {
			_, err := b.Run("ip", family, "route", "flush", "cache")
			r.must(err)
		}
	}
	seen := client
	if w.mode == "fullnat" {
		seen = snatOf(w.pool).Addr()
	}
	served := r.download(w.vip, client)
	for _, b := range r.Backends {
		got := r.learnt(b, seen, netip.Addr{})
		if b == served && got != narrow+w.outer {
			r.t.Errorf("%s served and learnt an MTU of %d, want %d", b.Name, got, narrow+w.outer)
		}
		if b != served && got != 0 {
			r.t.Errorf("%s did not serve but learnt an MTU of %d", b.Name, got)
		}
	}
}
