package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestTraceroute traces the way to VIPs: the routers before, the balancer, which
// answers from the VIP's address, and the backend, which does so too.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	all := ways()
	r := startWith(t, lab.Options{Transit: 1500}, setup{vips: vipsOf(all)})
	r.addPools()
	for _, w := range all {
		r.addVIP(w.name, w.vip, w.mode, w.pool)
		r.cli("vip", "add", w.name+"-udp", netip.AddrPortFrom(w.vip, echoPort).String(), "--protocol", "udp", "--mode", w.mode, "--pool", w.pool)
	}
	for _, w := range all {
		t.Run(w.name, func(t *testing.T) {
			on := r.within(t)
			before := []string{"192.0.2.1", "10.0.2.1"}
			if w.vip.Is6() {
				before = []string{"2001:db8:1::1", "2001:db8:4::1"}
			}
			vip := w.vip.String()
			through := append(before, vip, vip)
			exceeded := on.status().Reasons["tx_ttl_exceeded"]
			// A SYN ends at the server, which accepts it.
			on.trace(w.vip, through, "<syn,ack", "-T", "-p", "80", "-O", "info")
			// Nobody listens at the other port: the backend says so.
			on.trace(w.vip, through, "", "-U", "-p", fmt.Sprint(echoPort))
			if got := on.status().Reasons["tx_ttl_exceeded"] - exceeded; got != 2 {
				t.Errorf("%d packets ended at the balancer, want 2", got)
			}
			// Echo requests end at the balancer.
			on.trace(w.vip, append(before, vip), "", "-I")
		})
	}
	// The control: a balancer that says nothing is a hop without a name, and the
	// backend is the next.
	r.stopDaemon()
	r.more = "icmp_rate: 0\n"
	r.startDaemon()
	for _, w := range all[2:4] {
		t.Run("untold-"+w.name, func(t *testing.T) {
			t.Parallel() // both wait for an answer that does not come
			r.within(t).trace(w.vip, []string{"*", w.vip.String()}, "<syn,ack", "-T", "-p", "80", "-O", "info", "-f", "3")
		})
	}
}

// trace wants these hops, and a last one that says so.
func (r *rig) trace(to netip.Addr, want []string, last string, args ...string) {
	r.t.Helper()
	// Of several probes at a time, those that go too far come back as well.
	out, err := r.Client.Run("traceroute", append(append([]string{"-n", "-q", "1", "-N", "1", "-w", "2", "-m", "6"}, args...), to.String())...)
	r.must(err)
	var hops []string
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if i > 0 {
			hops = append(hops, strings.Fields(line)[1])
		}
	}
	if !slices.Equal(hops, want) || !strings.Contains(out[strings.LastIndex(strings.TrimSpace(out), "\n"):], last) {
		r.t.Errorf("traceroute %v: want %v and %q\n%s", args, want, last, out)
	}
}

// TestPingInFragments pings with more than one packet holds. The balancer leaves
// that to the kernel, which answers if it has the address.
func TestPingInFragments(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{Backends: 1, MTU: 1500}, vip4, vip6)
	r.addPools()
	r.addVIP("web4", vip4, "dsr-l2", "v4")
	r.addVIP("web6", vip6, "dsr-ipip", "v6")
	ping := func(size int, vip netip.Addr) error {
		out, err := r.Client.Run("ping", "-n", "-c", "1", "-W", "5", "-s", fmt.Sprint(size), vip.String())
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	for vip, headers := range map[netip.Addr]int{vip4: 20 + 8, vip6: 40 + 8} {
		before := r.status().Reasons["tx_echo_reply"]
		if err := ping(1500-headers, vip); err != nil {
			t.Error(err)
		}
		_, err := r.Balancer.Run("ip", "address", "add", fmt.Sprintf("%s/%d", vip, vip.BitLen()), "dev", "lo", "nodad")
		r.must(err)
		// The kernel adds the route to an IPv6 address of its own when it comes to it.
		r.wait(vip.String()+" is local to the balancer", func() error {
			out, err := r.Balancer.Run("ip", "route", "get", vip.String())
			if err == nil && !strings.HasPrefix(out, "local ") {
				err = errors.New(out)
			}
			return err
		})
		for _, size := range []int{1501 - headers, 4000} {
			if err := ping(size, vip); err != nil {
				t.Error(err)
			}
		}
		if got := r.status().Reasons["tx_echo_reply"] - before; got != 1 {
			t.Errorf("the balancer answers %d of three, want 1, that is not in fragments", got)
		}
		r.fetch(vip, 10)
	}
}
