package e2e

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

const (
	// connections of one measurement. A backend that is due half of them then
	// gets within half a percentage point, one standard deviation.
	connections = 10_000
	// tolerance between answers and slots, in percentage points.
	tolerance = 2.0
)

// TestSpread runs alone: it keeps all processors busy.
func TestSpread(t *testing.T) {
	for _, interfaces := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d-interface", interfaces), func(t *testing.T) {
			l2v4, l2v6 := lab.VIP(1)
			ipip4, ipip6 := lab.VIP(2)
			cross4, cross6 := lab.VIP(3)
			r := start(t, lab.Options{Interfaces: interfaces}, l2v4, l2v6, ipip4, ipip6, cross4, cross6)
			r.addPool("v4", v4)
			r.addPool("v6", v6)
			for _, name := range []string{"v4", "v6"} {
				// It has to stand that everything else is busy.
				r.addCheck(name, time.Second, time.Second, 5)
				r.waitUp(name, r.Backends...)
				r.shares(name)
			}
			for _, s := range []struct {
				name, mode, pool string
				address          netip.Addr
				n                int
			}{
				{"dsr-l2-v4", "dsr-l2", "v4", l2v4, connections},
				{"dsr-l2-v6", "dsr-l2", "v6", l2v6, connections},
				{"dsr-ipip-4in4", "dsr-ipip", "v4", ipip4, connections},
				{"dsr-ipip-6in6", "dsr-ipip", "v6", ipip6, connections},
				{"dsr-ipip-4in6", "dsr-ipip", "v6", cross4, 500},
				{"dsr-ipip-6in4", "dsr-ipip", "v4", cross6, 500},
			} {
				t.Run(s.name, func(t *testing.T) {
					on := *r
					on.t = t
					on.addVIP(s.name, s.address, s.mode, s.pool)
					on.spread(s.address, s.pool, s.n)
					for range 3 {
						on.download(s.address, netip.Addr{})
					}
				})
			}
		})
	}
}

// shares wants each backend's slots within two of its weight's share.
func (r *rig) shares(name string) {
	r.t.Helper()
	p, slots, weights := r.pool(name), 0, 0
	for _, b := range p.Backends {
		slots += b.Slots
		weights += b.Weight
	}
	for _, b := range p.Backends {
		if due := float64(slots*b.Weight) / float64(weights); math.Abs(float64(b.Slots)-due) > 2 {
			r.t.Errorf("pool %s: %s of weight %d has %d of %d slots, due are %.1f", name, b.Address, b.Weight, b.Slots, slots, due)
		}
	}
}

func (r *rig) spread(address netip.Addr, name string, n int) {
	r.t.Helper()
	began := time.Now()
	answers := r.fetch(address, n)
	took := time.Since(began)
	slots := r.pool(name).slots(r.Backends)
	off := furthest(answers, slots)
	r.t.Logf("%d connections in %v: %v; at most %.2f points from the slots' shares", n, took.Round(time.Millisecond), answers, off)
	if n < connections {
		// Too few for the tolerance, enough to see everybody.
		if len(answers) != len(r.Backends) {
			r.t.Errorf("answers come from %v", answers)
		}
		return
	}
	if off > tolerance {
		r.t.Errorf("%v is %.2f points from the slots %v", answers, off, slots)
	}
	// The control: a table without weights would be told from this one.
	for _, b := range r.Backends {
		slots[b] = 1
	}
	if off := furthest(answers, slots); off <= tolerance {
		r.t.Errorf("%v is only %.2f points from equal shares", answers, off)
	}
}

// furthest is the largest difference between a backend's share of the answers
// and its share of the slots, in percentage points.
func furthest(answers map[string]int, slots map[*lab.Host]int) float64 {
	allAnswers, allSlots := 0, 0
	for _, n := range answers {
		allAnswers += n
	}
	for _, n := range slots {
		allSlots += n
	}
	far := 0.0
	for h, n := range slots {
		got, due := float64(answers[h.Name])/float64(max(1, allAnswers)), float64(n)/float64(max(1, allSlots))
		far = max(far, 100*math.Abs(got-due))
	}
	return far
}

// download fetches a large file, which has to arrive whole, from an address of the
// client's if one is given. It returns the backend that answers.
func (r *rig) download(address, from netip.Addr) *lab.Host {
	r.t.Helper()
	args := []string{"-sS", "--max-time", "60", "-o", "/dev/null", "-w", "%{size_download} %header{x-host}"}
	if from.IsValid() {
		args = append(args, "--interface", from.String())
	}
	out, err := r.Client.Run("curl", append(args, url(address, "/big"))...)
	size, name, _ := strings.Cut(out, " ")
	if err != nil || size != strconv.FormatInt(r.big, 10) {
		r.t.Fatalf("/big of %s: %s bytes of %d arrived: %v", address, size, r.big, err)
	}
	b, err := r.Host(name)
	r.must(err)
	return b
}
