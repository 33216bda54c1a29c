package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/dataplane"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// timedPlane says when a state was in force, to its last slot.
type timedPlane struct {
	*dataplane.Plane
	applied chan inForce
}

type inForce struct {
	members []forwarding.Member
	at      time.Time
}

func (p *timedPlane) Apply(s forwarding.State) error {
	err := p.Plane.Apply(s)
	p.applied <- inForce{s.Pools[0].Members, time.Now()}
	return err
}

// crew is a pool of servers on this host, watched by real checks, with its loop and
// its data plane.
type crew struct {
	testing.TB
	servers []net.Listener
	pool    model.Pool
	plane   *timedPlane
	checker *health.Checker
}

// BenchmarkFailover is the time from the end of the check that fails, or passes again,
// to the last slot of a pool.
func BenchmarkFailover(b *testing.B) {
	for _, backends := range []int{100, 1000} {
		b.Run(fmt.Sprintf("backends=%d", backends), func(b *testing.B) {
			c := newCrew(b, backends)
			c.run()
			c.await(true)
			var down, up time.Duration
			for b.Loop() {
				down += c.turn(func() { c.servers[0].Close() }, false)
				up += c.turn(func() { c.servers[0] = c.listen(c.servers[0].Addr().String()) }, true)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(down.Seconds()*1000/float64(b.N), "ms/failure")
			b.ReportMetric(up.Seconds()*1000/float64(b.N), "ms/return")
		})
	}
}

// The benchmark's turns, with few servers.
func TestFailover(t *testing.T) {
	c := newCrew(t, 3)
	c.run()
	c.await(true)
	if took := c.turn(func() { c.servers[0].Close() }, false); took <= 0 {
		t.Errorf("the last slot was written %v before the check had failed", -took)
	}
	if took := c.turn(func() { c.servers[0] = c.listen(c.servers[0].Addr().String()) }, true); took <= 0 {
		t.Errorf("the last slot was written %v before the check had passed", -took)
	}
}

func newCrew(b testing.TB, backends int) *crew {
	const slots = 65537
	check := model.Check{Name: "tcp", Type: model.CheckTCP, Interval: time.Second, Timeout: time.Second, Jitter: 50, Rise: 1, Fall: 1}
	c := &crew{TB: b, checker: health.New(), pool: model.Pool{Name: "web", TableSize: slots, DownGrace: time.Hour, Checks: []model.Check{check}}}
	for i := range backends {
		// An address that no other process uses, and ports below those from which probes come.
		pid := os.Getpid()
		server := c.listen(fmt.Sprintf("127.%d.%d.%d:%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff, 20000+i))
		c.servers = append(c.servers, server)
		c.pool.Backends = append(c.pool.Backends, model.Backend{BackendID: backendAt(server), Weight: 1, State: model.Enabled})
	}
	plane, err := dataplane.Load(dataplane.Limits{
		VIPs: 1, Endpoints: 1, Pools: 1, Backends: 1 << 10, Slots: slots + 15, Flows: 1 << 10, Fragments: 1 << 10, SourceLists: 1, Sources: 1 << 10,
	}, dataplane.Options{})
	if err != nil {
		b.Fatal(err)
	}
	c.plane = &timedPlane{plane, make(chan inForce, 1<<10)}
	b.Cleanup(func() {
		for _, server := range c.servers {
			server.Close()
		}
		if err := plane.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

func backendAt(server net.Listener) model.BackendID {
	at := server.Addr().(*net.TCPAddr).AddrPort()
	return model.BackendID{Address: at.Addr(), Port: at.Port()}
}

// listen accepts until the listener is closed.
func (c *crew) listen(address string) net.Listener {
	c.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l
}

// run starts checks and loop, which end with the benchmark.
func (c *crew) run() {
	store := &fakeStore{revision: 1, state: model.State{
		VIPs: []model.VIP{{
			Name: "web", Pool: "web", Protocol: model.TCP, Mode: model.ModeDSRIPIP, Tracking: model.TrackingFlux, IdleTimeout: model.DefaultIdleTimeout,
			Endpoints: []model.Endpoint{{Address: netip.MustParseAddr("198.51.100.1"), Ports: model.PortRange{First: 80, Last: 80}}},
		}},
		Pools: []model.Pool{c.pool},
	}}
	store.state.Sort()
	loop, err := New(Options{Plane: c.plane, Checker: c.checker, Resolver: newFakeResolver(), Store: store, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- c.checker.Run(ctx) }()
	go func() { ended <- loop.Run(ctx, func() error { return nil }) }()
	c.Cleanup(func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				c.Error(err)
			}
		}
	})
}

// turn changes the first server and returns how long after the check had seen that the
// packets did.
func (c *crew) turn(change func(), takes bool) time.Duration {
	change()
	at := c.await(takes)
	status, _ := c.checker.Snapshot().Check(health.Key{Pool: c.pool.Name, Backend: backendAt(c.servers[0]), Check: "tcp"})
	return at.Sub(status.Since)
}

// await waits for a state in force in which the first server takes flows, or does not.
func (c *crew) await(takes bool) time.Time {
	c.Helper()
	first := backendAt(c.servers[0])
	deadline := time.After(time.Minute)
	for {
		select {
		case s := <-c.plane.applied:
			if slices.ContainsFunc(s.members, func(m forwarding.Member) bool { return m.ID == first }) == takes {
				return s.at
			}
		case <-deadline:
			c.Fatalf("after a minute it is not so that the first server takes flows: %t", takes)
		}
	}
}
