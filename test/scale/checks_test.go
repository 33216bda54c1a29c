package scale

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/test/lab"
)

// checkPort is where the backends' host answers checks.
const checkPort = 8080

// everySecond is a check that opens a connection once a second.
func everySecond() *model.Check {
	return &model.Check{
		Name: "tcp", Type: model.CheckTCP, Port: checkPort, Interval: time.Second, Timeout: time.Second,
		Rise: 1, Fall: 3, Jitter: 20,
	}
}

// answer accepts checks for all backends, and counts them, until the test ends.
func (b *balancer) answer() *atomic.Uint64 {
	b.Helper()
	accepted := &atomic.Uint64{}
	var listener net.Listener
	b.must(b.Backends[0].Do(func() (err error) {
		listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", checkPort))
		return err
	}))
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			conn.Close()
		}
	})
	b.Cleanup(func() {
		listener.Close()
		ended.Wait()
	})
	return accepted
}

// up counts the backends of a pool that the daemon says are up.
func (b *balancer) up(pool string) int {
	b.Helper()
	out, err := b.Balancer.Run(b.binary, "--socket", b.socket(), "backend", "list", pool)
	b.must(err)
	return strings.Count(out, " up ")
}

// BenchmarkChecks is what 20,000 TCP checks a second cost the daemon. The servers are
// in another process.
func BenchmarkChecks(b *testing.B) {
	s := size{vips: 20, pools: 20, backends: 1000, check: everySecond()}
	at := newBalancer(b, s)
	accepted := at.answer()
	p, _ := at.start()
	at.settle(p, accepted, uint64(2*s.pools*s.backends))
	const length = 5 * time.Second
	var used, took time.Duration
	var checks uint64
	for b.Loop() {
		before, count, began := at.used(p), accepted.Load(), time.Now()
		time.Sleep(length)
		took += time.Since(began)
		used, checks = used+at.used(p)-before, checks+accepted.Load()-count
	}
	own, err := ownMemory(p)
	at.must(err)
	at.stop(p)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(checks)/took.Seconds(), "checks/s")
	b.ReportMetric(used.Seconds()/took.Seconds(), "cores")
	b.ReportMetric(float64(used.Microseconds())/float64(checks), "cpu-µs/check")
	b.ReportMetric(float64(own)/1e6, "MB-daemon")
}

func (b *balancer) used(p *lab.Process) time.Duration {
	b.Helper()
	d, err := processorTime(p)
	b.must(err)
	return d
}

// settle waits for so many checks, after which every backend has been checked.
func (b *balancer) settle(p *lab.Process, accepted *atomic.Uint64, checks uint64) {
	b.Helper()
	b.must(p.WaitReady(b.Context(), func() error {
		if n := accepted.Load(); n < checks {
			return fmt.Errorf("there have been %d checks of %d", n, checks)
		}
		return nil
	}))
}

func TestChecks(t *testing.T) {
	b := newBalancer(t, size{vips: 1, pools: 1, backends: 50, check: everySecond()})
	p, _ := b.start()
	if n := b.up("pool-0000"); n != 0 {
		t.Errorf("control: %d backends are up without a server", n)
	}
	accepted := b.answer()
	b.settle(p, accepted, 3*50)
	b.must(p.WaitReady(t.Context(), func() error {
		if n := b.up("pool-0000"); n != 50 {
			return fmt.Errorf("%d backends of 50 are up", n)
		}
		return nil
	}))
	if b.used(p) == 0 {
		t.Error("checks take no time")
	}
	b.stop(p)
}
