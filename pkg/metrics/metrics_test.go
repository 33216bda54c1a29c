package metrics_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/steelyard-lb/steelyard/pkg/metrics"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a [metrics.Source] that counts how often it is asked.
type source struct {
	status model.Status
	err    error
	asked  int
}

func (s *source) Status(context.Context) (model.Status, error) {
	s.asked++
	return s.status, s.err
}

func filled() model.Status {
	now := time.Unix(1_700_000_000, 0)
	check := func(name string, h model.Health, result string) model.CheckStatus {
		return model.CheckStatus{Name: name, Health: h, Result: result, Since: now, Checked: now.Add(time.Second), Duration: 1500 * time.Microsecond}
	}
	return model.Status{
		Started: now, Revision: 7, Applied: 6, Error: "no room",
		Interfaces: []model.InterfaceStatus{{Name: "eth1", Mode: "native"}},
		VIPs: []model.VIPStatus{
			{VIP: model.VIP{Name: "web", Address: netip.MustParseAddr("192.0.2.10"), Protocol: model.TCP, Port: 80, Mode: model.ModeDSRIPIP, Pool: "web"},
				Available: true, Counters: model.Counters{Packets: 10, Bytes: 2000, Connections: 3}},
			{VIP: model.VIP{Name: "dns", Address: netip.MustParseAddr("2001:db8::53"), Protocol: model.UDP, Mode: model.ModeDSRL2, Pool: "web"}},
		},
		Pools: []model.PoolStatus{{Name: "web", TableSize: 65537, Backends: []model.BackendStatus{
			{Backend: model.Backend{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 2, State: model.Enabled},
				Health: model.HealthUp, Slots: 65537, NextHop: model.NextHop{MAC: "02:00:00:00:00:01"},
				Counters: model.Counters{Packets: 10, Bytes: 2000, Connections: 3},
				Checks:   []model.CheckStatus{check("tcp", model.HealthUp, "L4OK"), {Name: "http"}}},
			{Backend: model.Backend{BackendID: model.BackendID{Address: netip.MustParseAddr("2001:db8:1::10"), Port: 8080}, Weight: 1, State: model.Draining},
				Health: model.HealthDown, Checks: []model.CheckStatus{check("tcp", model.HealthDown, "L4CON")}},
		}}},
		Reasons: []model.Reason{{Name: "pass_not_vip", Packets: 5}, {Name: "drop_fragment"}},
		Maps:    []model.MapUse{{Name: "slots", Used: 1, Capacity: 2, Bytes: 3}},
	}
}

func scrape(t *testing.T, s metrics.Source) (int, string) {
	t.Helper()
	server := httptest.NewServer(metrics.NewHandler(s, "1.2.3"))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestMetrics(t *testing.T) {
	s := &source{status: filled()}
	code, page := scrape(t, s)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, page)
	}
	lines := map[string]bool{}
	for line := range strings.SplitSeq(page, "\n") {
		lines[line] = true
	}
	for _, want := range []string{
		`steelyard_build_info{goversion="` + runtime.Version() + `",version="1.2.3"} 1`,
		`steelyard_start_time_seconds 1.7e+09`,
		`steelyard_desired_revision 7`,
		`steelyard_applied_revision 6`,
		`steelyard_apply_error 1`,
		`steelyard_interface_attached{interface="eth1",mode="native"} 1`,
		`steelyard_vip_packets_total{address="192.0.2.10",port="80",protocol="tcp",vip="web"} 10`,
		`steelyard_vip_bytes_total{address="192.0.2.10",port="80",protocol="tcp",vip="web"} 2000`,
		`steelyard_vip_connections_total{address="192.0.2.10",port="80",protocol="tcp",vip="web"} 3`,
		`steelyard_vip_available{address="192.0.2.10",port="80",protocol="tcp",vip="web"} 1`,
		`steelyard_vip_available{address="2001:db8::53",port="any",protocol="udp",vip="dns"} 0`,
		`steelyard_vip_info{address="2001:db8::53",mode="dsr-l2",pool="web",port="any",protocol="udp",vip="dns"} 1`,
		`steelyard_backend_packets_total{backend="10.0.1.10",pool="web"} 10`,
		`steelyard_backend_bytes_total{backend="10.0.1.10",pool="web"} 2000`,
		`steelyard_backend_connections_total{backend="10.0.1.10",pool="web"} 3`,
		`steelyard_backend_up{backend="10.0.1.10",pool="web"} 1`,
		`steelyard_backend_up{backend="[2001:db8:1::10]:8080",pool="web"} 0`,
		`steelyard_backend_health{backend="[2001:db8:1::10]:8080",health="down",pool="web"} 1`,
		`steelyard_backend_health{backend="[2001:db8:1::10]:8080",health="unknown",pool="web"} 0`,
		`steelyard_backend_state{backend="[2001:db8:1::10]:8080",pool="web",state="draining"} 1`,
		`steelyard_backend_weight{backend="10.0.1.10",pool="web"} 2`,
		`steelyard_backend_slots{backend="10.0.1.10",pool="web"} 65537`,
		`steelyard_backend_resolved{backend="[2001:db8:1::10]:8080",pool="web"} 0`,
		`steelyard_pool_slots{pool="web"} 65537`,
		`steelyard_check_up{backend="10.0.1.10",check="tcp",pool="web"} 1`,
		`steelyard_check_up{backend="10.0.1.10",check="http",pool="web"} 0`,
		`steelyard_check_duration_seconds{backend="10.0.1.10",check="tcp",pool="web"} 0.0015`,
		`steelyard_check_result{backend="[2001:db8:1::10]:8080",check="tcp",pool="web",result="L4CON"} 1`,
		`steelyard_exits_total{reason="pass_not_vip"} 5`,
		`steelyard_exits_total{reason="drop_fragment"} 0`,
		`steelyard_map_entries{map="slots"} 1`,
		`steelyard_map_capacity{map="slots"} 2`,
		`steelyard_map_bytes{map="slots"} 3`,
	} {
		if !lines[want] {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(page, `steelyard_check_result{backend="10.0.1.10",check="http"`) {
		t.Error("a check that never probed has a result")
	}
	if !strings.Contains(page, "go_goroutines") || !strings.Contains(page, "process_open_fds") {
		t.Error("the process's own metrics are missing")
	}
}

func TestPromtool(t *testing.T) {
	_, page := scrape(t, &source{status: filled()})
	lint := func(page string) (string, error) {
		cmd := exec.Command("promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(page)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := lint(page); err != nil || out != "" {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	if _, err := lint(page + "# TYPE steelyard_wrong counter\nsteelyard_wrong 1\n"); err == nil {
		t.Error("promtool does not complain about a counter without _total, so it proves nothing")
	}
}

// TestCollectedOnScrape: nothing is read before a scrape, once for each, and
// the page shows the status of that moment.
func TestCollectedOnScrape(t *testing.T) {
	s := &source{status: filled()}
	if metrics.NewHandler(s, "1.2.3"); s.asked != 0 {
		t.Errorf("asked %d times before any scrape", s.asked)
	}
	scrape(t, s)
	s.status.VIPs[0].Packets = 11
	if _, page := scrape(t, s); !strings.Contains(page, `vip="web"} 11`) || s.asked != 2 {
		t.Errorf("asked %d times in two scrapes", s.asked)
	}
}

func TestSourceFails(t *testing.T) {
	code, page := scrape(t, &source{err: errors.New("map is gone")})
	if code != http.StatusServiceUnavailable || !strings.Contains(page, "map is gone") {
		t.Errorf("%d %s", code, page)
	}
}
