package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// TestHotChanges changes a pool over and over while requests run. Every new
// connection is accepted; that those under way stay with their backend is not
// promised yet.
func TestHotChanges(t *testing.T) {
	t.Parallel()
	vip4, _ := lab.VIP(1)
	_, vip6 := lab.VIP(2)
	r := start(t, lab.Options{}, vip4, vip6)
	late, first := r.Backends[2], r.Backends[:2]
	r.cli("pool", "add", "web", first[0].V4.String(), first[1].V4.String())
	r.addCheck("web", time.Second, time.Second, 5)
	r.addVIP("web4", vip4, "dsr-l2", "web")
	r.addVIP("web6", vip6, "dsr-ipip", "web")
	r.waitUp("web", first...)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	loads := []*load{{address: vip4}, {address: vip6}}
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() { l.run(ctx, r.Client) })
	}
	for round := range 5 {
		r.cli("backend", "add", "web", late.V4.String())
		r.waitUp("web", r.Backends...)
		for weight := 1; weight <= 5; weight++ {
			r.cli("backend", "set", "web", first[0].V4.String(), "--weight", fmt.Sprint(10*weight+round))
		}
		r.cli("backend", "drain", "web", first[1].V4.String())
		r.cli("backend", "enable", "web", first[1].V4.String())
		r.cli("pool", "set", "web", "--table-size", []string{"131071", "65537"}[round%2])
		r.cli("backend", "remove", "web", late.V4.String(), "--now")
	}
	stop()
	running.Wait()

	// A packet that is dropped delays its connection by a second, if it does
	// not break it.
	for reason, packets := range r.status().Reasons {
		if strings.HasPrefix(reason, "drop_") && packets > 0 {
			t.Errorf("%d packets are %s", packets, reason)
		}
	}
	for _, l := range loads {
		t.Logf("%s: %d requests answered, %d connections moved while under way", l.address, l.good, l.moved)
		for failure, n := range l.failed {
			t.Errorf("%s: %d connections failed: %s", l.address, n, failure)
		}
		if l.good == 0 {
			t.Errorf("%s: no request was answered", l.address)
		}
	}
	answers := r.fetch(vip4, 200)
	if answers[late.Name] != 0 {
		t.Errorf("%s was removed and answers: %v", late.Name, answers)
	}
}

// load is traffic without end.
type load struct {
	address netip.Addr
	// good requests were answered. Those that moved had a connection, which
	// another backend then reset. All others failed.
	good, moved int
	failed      map[string]int
}

// run sends requests until the context ends.
func (l *load) run(ctx context.Context, client *lab.Host) {
	l.failed = map[string]int{}
	for ctx.Err() == nil {
		// A batch of its own is not called off in its middle.
		batch, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		answers := client.Fetch(batch, url(l.address, "/"), 100, 4)
		cancel()
		l.good += answers.Good()
		for failure, n := range answers.Failures {
			if moved(failure) {
				l.moved += n
			} else {
				l.failed[failure] += n
			}
		}
	}
}

// moved tells a connection that was reset once it stood from one that was never
// accepted: the latter is refused, or times out.
func moved(failure string) bool {
	return strings.Contains(failure, "connection reset by peer") || strings.HasSuffix(failure, "EOF")
}
