package metrics_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
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

func endpoints(texts ...string) []model.Endpoint {
	var out []model.Endpoint
	for _, s := range texts {
		e, err := model.ParseEndpoint(s)
		if err != nil {
			panic(err)
		}
		out = append(out, e)
	}
	return out
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
			{VIP: model.VIP{Name: "web", Endpoints: endpoints("192.0.2.10:80", "192.0.2.10:8000-8100", "[2001:db8::10]:80"), Protocol: model.TCP, Mode: model.ModeDSRGUE, Pool: "web"},
				Dropped:   []model.Reason{{Name: "drop_tcp_flags", Packets: 2}, {Name: "drop_denied"}},
				Available: true, InFlux: true, Flows: 21, Counters: model.Counters{Packets: 10, Bytes: 2000, Connections: 3}},
			{VIP: model.VIP{Name: "dns", Endpoints: endpoints("[2001:db8::53]:any"), Protocol: model.UDP, Mode: model.ModeDSRL2, Pool: "web", Limits: model.Limits{Packets: model.Limit{Rate: 5}}},
				Dropped: []model.Reason{{Name: "drop_denied"}, {Name: "drop_limit_packets", Packets: 4}}, Observed: []model.Reason{{Name: "drop_limit_packets", Packets: 6}}, Forgotten: 8},
		},
		Pools: []model.PoolStatus{{Name: "web", TableSize: 65537, SlotsInFlux: 300, Backends: []model.BackendStatus{
			{Backend: model.Backend{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 2, State: model.Enabled},
				Health: model.HealthUp, Slots: 65537, NextHop: model.NextHop{MAC: "02:00:00:00:00:01"},
				Counters: model.Counters{Packets: 10, Bytes: 2000, Connections: 3},
				Checks:   []model.CheckStatus{check("tcp", model.HealthUp, "L4OK"), {Name: "http"}}},
			{Backend: model.Backend{BackendID: model.BackendID{Address: netip.MustParseAddr("2001:db8:1::10"), Port: 8080}, Weight: 1, State: model.Draining},
				Health: model.HealthDown, Flows: 42, KeepsFlows: true, Named: true, Checks: []model.CheckStatus{check("tcp", model.HealthDown, "L4CON")}},
		}}},
		Reasons: []model.Reason{{Name: "pass_not_vip", Packets: 5}, {Name: "tx_echo_reply", Packets: 1}, {Name: "redirect_forwarded", Packets: 10}, {Name: "drop_fragment_early"}},
		Maps:    []model.MapUse{{Name: "slots", Used: 1, Capacity: 2, Bytes: 3}},
		Flows: model.FlowTable{Live: 63, Capacity: 1024, SlotsInFlux: 300, Sweeps: 5, Entries: 1000, Took: 2500 * time.Microsecond,
			Remembered: 70, Evicted: 4, EvictedConnections: 3, Unremembered: 2},
		NAT:       model.NATPorts{Used: 20, Capacity: 129024, Opened: 21, Evicted: 5, Exhausted: 6},
		Fragments: model.FragmentTable{Remembered: 90, Evicted: 6},
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

// TestGolden: the page is that of testdata, word for word, and the process's own
// metrics come after it.
func TestGolden(t *testing.T) {
	code, page := scrape(t, &source{status: filled()})
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, page)
	}
	golden, err := os.ReadFile("testdata/filled.prom")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.ReplaceAll(string(golden), "GOVERSION", runtime.Version()), "\n")
	got := strings.Split(ours(page), "\n")
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Errorf("lines in another order:\n%s", ours(page))
	}
	if !strings.Contains(page, "go_goroutines") || !strings.Contains(page, "process_open_fds") {
		t.Error("the process's own metrics are missing")
	}
}

// ours returns the lines of a page about metrics of Steelyard.
func ours(page string) string {
	var b strings.Builder
	for line := range strings.Lines(page) {
		name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		if strings.HasPrefix(name, "steelyard_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// promtool returns what "promtool check metrics" has to say against a page, or "".
func promtool(t *testing.T, page string) string {
	t.Helper()
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("cannot run promtool: %v; install the package prometheus", err)
	}
	if err != nil && len(out) == 0 {
		t.Fatalf("promtool: %v", err)
	}
	return string(out)
}

func TestPromtool(t *testing.T) {
	_, page := scrape(t, &source{status: filled()})
	if complaints := promtool(t, page); complaints != "" {
		t.Error(complaints)
	}
	for name, bad := range map[string]string{
		"steelyard_wrong":             "# HELP steelyard_wrong A counter without _total.\n# TYPE steelyard_wrong counter\nsteelyard_wrong 1\n",
		"steelyard_wait_milliseconds": "# HELP steelyard_wait_milliseconds Not a base unit.\n# TYPE steelyard_wait_milliseconds gauge\nsteelyard_wait_milliseconds 1\n",
	} {
		if complaints := promtool(t, page+bad); !strings.Contains(complaints, name) {
			t.Errorf("promtool does not complain about %s: %q", name, complaints)
		}
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
	if code != http.StatusInternalServerError || !strings.Contains(page, "map is gone") {
		t.Errorf("%d %s", code, page)
	}
}

// late is a [metrics.Source] that takes its time, unless it is told to stop.
type late time.Duration

func (l late) Status(ctx context.Context) (model.Status, error) {
	select {
	case <-ctx.Done():
		return model.Status{}, ctx.Err()
	case <-time.After(time.Duration(l)):
		return filled(), nil
	}
}

// TestDeadline: a source that hangs fails the scrape, one that is slow does not.
func TestDeadline(t *testing.T) {
	for _, test := range []struct {
		takes time.Duration
		code  int
	}{{4 * time.Second, http.StatusOK}, {time.Hour, http.StatusInternalServerError}} {
		synctest.Test(t, func(t *testing.T) {
			page := httptest.NewRecorder()
			metrics.NewHandler(late(test.takes), "1.2.3").ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
			if page.Code != test.code {
				t.Errorf("a status that takes %v: %d, want %d", test.takes, page.Code, test.code)
			}
		})
	}
}
