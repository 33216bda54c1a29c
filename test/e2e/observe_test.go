package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestEcho pings VIPs: the balancer answers, whatever becomes of the backends.
func TestEcho(t *testing.T) {
	t.Parallel()
	for _, interfaces := range []int{1, 2} {
		vip4, vip6 := lab.VIP(1)
		vips := []netip.Addr{vip4, vip6}
		r := start(t, lab.Options{Interfaces: interfaces, Backends: 1}, vip4, vip6)
		ping := func(address netip.Addr, args ...string) error {
			_, err := r.Client.Run("ping", append(append([]string{"-n", "-q", "-c", "1"}, args...), address.String())...)
			return err
		}
		for _, address := range vips {
			// The control: the address alone answers nothing.
			if err := ping(address, "-W", "0.2"); err == nil {
				t.Errorf("%s answers before it is a VIP", address)
			}
		}
		r.addPool("web", v4)
		r.addCheck("web", checkInterval, checkTimeout, checkFall)
		r.addVIP("web4", vip4, "dsr-l2", "web")
		r.addVIP("web6", vip6, "dsr-ipip", "web")
		r.waitUp("web", r.Backends...)
		for _, state := range []string{"up", "down"} {
			if state == "down" {
				r.must(r.servers[r.Backends[0]].Stop())
				r.waitUp("web")
			}
			before := r.status().Reasons["tx_echo_reply"]
			for _, address := range vips {
				for _, size := range []string{"0", "56", "1400"} {
					if err := ping(address, "-W", "5", "-s", size); err != nil {
						t.Errorf("backends %s: %v", state, err)
					}
				}
			}
			if got := r.status().Reasons["tx_echo_reply"] - before; got != 6 {
				t.Errorf("backends %s: %d echo replies are counted, want 6", state, got)
			}
		}
	}
}

// TestNotOurs sees that everything else passes: the balancer is still a host.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{Interfaces: 2, Backends: 1}, vip4, vip6)
	r.addPool("web", v4)
	r.addVIP("web4", vip4, "dsr-l2", "web")
	r.addVIP("web6", vip6, "dsr-ipip", "web")
	if _, err := r.Balancer.Nginx(t.Context(), lab.Site{BigBytes: bigBytes}); err != nil {
		t.Fatal(err)
	}
	front4, front6 := r.Front()
	for _, address := range []netip.Addr{front4, front6, r.Balancer.V4, r.Balancer.V6} {
		if answers := r.fetch(address, 50); answers[r.Balancer.Name] != 50 {
			t.Errorf("the balancer at %s: %v", address, answers)
		}
		r.download(address, netip.Addr{})
		if _, err := r.Client.Run("ping", "-n", "-q", "-c", "1", "-W", "5", address.String()); err != nil {
			t.Error(err)
		}
	}
	for _, address := range []netip.Addr{vip4, vip6} {
		if answers := r.fetch(address, 50); answers[r.Backends[0].Name] != 50 {
			t.Errorf("the VIP %s beside it: %v", address, answers)
		}
	}
	for reason, packets := range r.status().Reasons {
		if strings.HasPrefix(reason, "drop_") && packets > 0 {
			t.Errorf("%d packets are %s", packets, reason)
		}
	}
	// Metrics are for the host itself.
	if _, err := r.Client.Run("curl", "-sS", "--max-time", "5", "http://"+front4.String()+":9464/metrics"); err == nil {
		t.Error("metrics are served to the outside")
	}
}

// TestMetrics compares what is counted with what was sent.
func TestMetrics(t *testing.T) {
	t.Parallel()
	const requests = 300
	vip4, vip6 := lab.VIP(1)
	r := start(t, lab.Options{Backends: 2}, vip4, vip6)
	r.addPool("web", v4)
	r.addCheck("web", checkInterval, checkTimeout, 10)
	r.addVIP("web4", vip4, "dsr-l2", "web")
	r.addVIP("web6", vip6, "dsr-ipip", "web")
	r.waitUp("web", r.Backends...)
	answers := map[string]uint64{}
	for _, address := range []netip.Addr{vip4, vip6} {
		for name, n := range r.fetch(address, requests) {
			answers[name] += uint64(n)
		}
	}

	r.settle()
	page, s := scrape(r), r.status()
	for _, v := range s.VIPs {
		page.wants("steelyard_vip_endpoint_info", fmt.Sprintf(`address="%s",ports="80",protocol="tcp",vip="%s"`, v.Address, v.Name), 1)
		labels := fmt.Sprintf(`vip="%s"`, v.Name)
		page.wants("steelyard_vip_connections_total", labels, requests)
		page.wants("steelyard_vip_available", labels, 1)
		if v.Connections != requests || v.Packets < 4*requests {
			t.Errorf("status: VIP %s had %d connections and %d packets of %d requests", v.Name, v.Connections, v.Packets, requests)
		}
		page.wants("steelyard_vip_packets_total", labels, v.Packets)
	}
	for _, h := range r.Backends {
		b := s.Pools[0].of(h)
		labels := fmt.Sprintf(`backend="%s",pool="web"`, b.Address)
		page.wants("steelyard_backend_connections_total", labels, answers[h.Name])
		page.wants("steelyard_backend_slots", labels, uint64(b.Slots))
		page.wants("steelyard_backend_up", labels, 1)
		if b.Connections != answers[h.Name] {
			t.Errorf("status: %s had %d connections and answered %d requests", h.Name, b.Connections, answers[h.Name])
		}
	}
	page.wants("steelyard_exits_total", `reason="tx_forwarded",verdict="tx"`, s.VIPs[0].Packets+s.VIPs[1].Packets)
	page.wants("steelyard_applied_revision", "", s.Revision)
	page.wants("steelyard_apply_error", "", 0)
}

// settle waits until the connections that were closed have said their last.
func (r *rig) settle() {
	r.t.Helper()
	var last uint64
	r.wait("no more packets come for the VIPs", func() error {
		before := last
		last = 0
		for _, v := range r.status().VIPs {
			last += v.Packets
		}
		if last != before {
			return fmt.Errorf("%d packets came", last-before)
		}
		return nil
	})
}

// metricsPage is what Prometheus reads.
type metricsPage struct {
	t      *testing.T
	series map[string]float64
}

// scrape reads the balancer's metrics and has promtool judge them.
func scrape(r *rig) metricsPage {
	r.t.Helper()
	text, err := r.Balancer.Run("curl", "-sS", "--fail", "http://127.0.0.1:9464/metrics")
	r.must(err)
	check := r.Balancer.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		r.t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	page := metricsPage{r.t, map[string]float64{}}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(line, "} "); ok {
			page.add(name+"}", value)
		} else if name, value, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			page.add(name, value)
		}
	}
	return page
}

func (p metricsPage) add(series, text string) {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		p.t.Errorf("series %s: %v", series, err)
	}
	p.series[series] = value
}

// wants compares a series, its labels in alphabetical order.
func (p metricsPage) wants(name, labels string, want uint64) {
	p.t.Helper()
	if labels != "" {
		name += "{" + labels + "}"
	}
	if got, ok := p.series[name]; !ok || got != float64(want) {
		p.t.Errorf("%s is %v (there: %v), want %d", name, got, ok, want)
	}
}
