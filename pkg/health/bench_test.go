package health

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// BenchmarkTCPProbe is the cost of one probe of a server on this host, the
// server's part included.
func BenchmarkTCPProbe(b *testing.B) {
	to := benchServer(b)
	p := &prober{}
	target := aim(to, model.Check{Type: model.CheckTCP})
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if o := p.probe(ctx, target); o.result != L4OK {
			b.Fatal(o)
		}
		cancel()
	}
}

// BenchmarkChecker runs the whole of it once over 20,000 targets of refused
// connections, which the kernel answers without a server, and reports the
// processor time of one probe.
func BenchmarkChecker(b *testing.B) {
	const n = 20000
	check := model.Check{Type: model.CheckTCP, Interval: time.Hour, Timeout: time.Second}
	targets := make([]Target, n)
	for i := range targets {
		check.Name = fmt.Sprint(i)
		targets[i] = aim(netip.MustParseAddrPort("127.0.0.1:1"), check)
	}
	for b.Loop() {
		c := New()
		before := processorTime(b)
		c.Set(targets)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if err := c.Run(ctx); err != nil {
			b.Fatal(err)
		}
		cancel()
		for k, s := range c.Snapshot().All() {
			if s.Result != L4CON {
				b.Fatal(k, s)
			}
		}
		b.ReportMetric(float64((processorTime(b)-before).Microseconds())/n, "cpu-µs/probe")
	}
}

func processorTime(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func benchServer(b *testing.B) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
