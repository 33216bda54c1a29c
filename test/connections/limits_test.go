package connections_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// shortFlood is how many sources the short form of the test has.
const shortFlood = 1 << 16

// TestFloodOfLimitedVIP floods a VIP that has limits, each SYN from a source of its own,
// while a neighbour's HTTP goes on: none of its requests fails, and none of its packets
// is dropped. The neighbour has a limit for sources, too, which shares the flood's table.
func TestFloodOfLimitedVIP(t *testing.T) {
	sources := shortFlood
	if full() {
		sources = floodSources
	}
	l := lab.Start(t, lab.Options{Backends: 2})
	victim, _ := lab.VIP(1)
	neighbour, _ := lab.VIP(2)
	for _, b := range l.Backends {
		if err := b.PlainDSR(victim, neighbour); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Nginx(t.Context(), lab.Site{}); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(l.Balancer.Dir(), "api.sock")
	config := fmt.Sprintf("interfaces: [eth0]\napi:\n  socket: %s\nmetrics:\n  listen: \"\"\nstore: %s\nlimits:\n  sources: 4096\n",
		socket, filepath.Join(l.Balancer.Dir(), "state.db"))
	daemon, err := l.Balancer.Daemon(t.Context(), program(t, "steelyard"), socket, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.Stop(); err != nil {
			t.Error(err)
		}
	})
	cli := func(args ...string) string {
		t.Helper()
		out, err := daemon.CLI(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	cli("pool", "add", "web", l.Backends[0].V4.String(), l.Backends[1].V4.String())
	on := func(a netip.Addr) string { return netip.AddrPortFrom(a, 80).String() }
	cli("vip", "add", "victim", on(victim), "--mode", "dsr-l2", "--pool", "web", "--limit-source-connections", "10", "--limit-connections", "500")
	cli("vip", "add", "neighbour", on(neighbour), "--mode", "dsr-l2", "--pool", "web", "--limit-source-connections", "1000")
	waitResolved(t, cli)

	at := netip.AddrPortFrom(victim, 80)
	// As many frames that nobody takes: what sending them costs the machine.
	reference := asked(t, l, on(neighbour), func() { floodBy(t, l, nobodyMAC(), at, tcp, sources) })
	rate := asked(t, l, on(neighbour), func() { flood(t, l, at, tcp, sources) })
	flooded, spared := guardOf(t, cli, "victim"), guardOf(t, cli, "neighbour")
	if n := flooded.Dropped["drop_limit_connections"]; n < uint64(sources)/4 {
		t.Errorf("%d of %d SYNs were beyond the limit", n, sources)
	}
	if flooded.Limits.Forgotten == 0 {
		t.Error("the table of sources had room for all: the test shows nothing")
	}
	for reason, n := range spared.Dropped {
		t.Errorf("%d packets of the neighbour are %s", n, reason)
	}
	t.Logf("%.0f requests a second answered, %.2f of those beside a flood of nobody; victim: %+v; neighbour: %+v", rate, rate/reference, flooded, spared)
}

// asked is how many requests a second to an endpoint are answered while something
// happens. None may fail.
func asked(t *testing.T, l *lab.Lab, endpoint string, during func()) (rate float64) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var good, failed int
	failures := map[string]int{}
	var web sync.WaitGroup
	begun := time.Now()
	web.Go(func() {
		for ctx.Err() == nil {
			answers := l.Client.Fetch(context.WithoutCancel(ctx), "http://"+endpoint+"/", 50, 2)
			good, failed = good+answers.Good(), failed+answers.Failed()
			for why, n := range answers.Failures {
				failures[why] += n
			}
		}
	})
	during()
	stop()
	web.Wait()
	if failed > 0 || good == 0 {
		t.Errorf("%d requests to the neighbour were answered, and %d not: %v", good, failed, failures)
	}
	return float64(good) / time.Since(begun).Seconds()
}

// nobodyMAC is an address that no device has (RFC 9542, section 2.1.2: for documentation).
func nobodyMAC() net.HardwareAddr { return net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1} }

type guarded struct {
	Dropped map[string]uint64 `json:"dropped"`
	Limits  struct {
		Forgotten uint64 `json:"forgotten"`
	} `json:"limits"`
}

func guardOf(t *testing.T, cli func(...string) string, vip string) guarded {
	t.Helper()
	var g guarded
	if err := json.Unmarshal([]byte(cli("vip", "show", vip, "-o", "json")), &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// waitResolved waits until packets reach every backend.
func waitResolved(t *testing.T, cli func(...string) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := lab.WaitFor(ctx, "every backend is reachable", func() error {
		var pool struct {
			Backends []struct {
				Slots   int `json:"slots"`
				NextHop struct {
					MAC     string `json:"mac"`
					Problem string `json:"problem"`
				} `json:"next_hop"`
			} `json:"backends"`
		}
		if err := json.Unmarshal([]byte(cli("pool", "show", "web", "-o", "json")), &pool); err != nil {
			return err
		}
		for _, b := range pool.Backends {
			if b.NextHop.MAC == "" || b.Slots == 0 {
				return fmt.Errorf("%d slots, %s", b.Slots, b.NextHop.Problem)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
