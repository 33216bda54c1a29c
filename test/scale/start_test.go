package scale

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// started is what a daemon took to start.
type started struct {
	took time.Duration
	// own memory of the daemon, and that of its maps, in bytes.
	own, maps uint64
}

// cold starts a daemon that finds nothing but its store, and stops it.
func (b *balancer) cold() started {
	b.Helper()
	p, took := b.start()
	s := started{took: took}
	var err error
	s.own, err = ownMemory(p)
	b.must(err)
	s.maps, err = mapMemory(p)
	b.must(err)
	b.stop(p)
	return s
}

// BenchmarkColdStart is the time from the start of the daemon to packets that meet the
// whole of a large state, and the memory that it and its maps take then.
func BenchmarkColdStart(b *testing.B) {
	for _, s := range []size{{vips: 10, pools: 10, backends: 10}, {vips: 10_000, pools: 1000, backends: 100}} {
		b.Run(fmt.Sprintf("vips=%d/pools=%d/backends=%d", s.vips, s.pools, s.backends), func(b *testing.B) {
			at := newBalancer(b, s)
			var took time.Duration
			var last started
			for b.Loop() {
				last = at.cold()
				took += last.took
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took.Seconds()/float64(b.N), "s/start")
			b.ReportMetric(float64(last.own)/1e6, "MB-daemon")
			b.ReportMetric(float64(last.maps)/1e6, "MB-maps")
		})
	}
}

func TestColdStart(t *testing.T) {
	b := newBalancer(t, size{vips: 20, pools: 4, backends: 10})
	if s := b.cold(); s.own == 0 || s.maps < 4*tableSize*4 {
		t.Errorf("the daemon takes %d bytes, its maps %d: less than their slots", s.own, s.maps)
	}
	p, _ := b.start()
	out, err := b.Balancer.Run(b.binary, "--socket", b.socket(), "vip", "list")
	b.must(err)
	if n := strings.Count(out, "vip-000"); n != 20 {
		t.Errorf("after the start there are %d VIPs, want 20:\n%s", n, out)
	}
	b.stop(p)
}
