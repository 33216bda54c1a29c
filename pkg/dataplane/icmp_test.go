package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// flowOf is a packet of a flow of [fluxRig.frame].
func (r *fluxRig) flowOf(flow uint32) packet {
	p := r.family().packet(tcp{from: uint16(10000 + flow&0xfff), to: 80, flags: flagACK})
	source := 0xc6336400 + flow>>12
	if r.ipv6 {
		b := p.source.As16()
		binary.BigEndian.PutUint32(b[12:], source)
		p.source = netip.AddrFrom16(b)
		return p
	}
	p.source = netip.AddrFrom4([4]byte{byte(source >> 24), byte(source >> 16), byte(source >> 8), byte(source)})
	return p
}

func (r *fluxRig) family() family {
	if r.ipv6 {
		return ipv6()
	}
	return ipv4()
}

// error sends an ICMP error about a flow and returns where it goes, as send does.
func (r *fluxRig) error(flow uint32) int {
	r.Helper()
	f, about := r.family(), answeredBy(r.flowOf(flow))
	verdict, out, err := send(r.plane, f.reports(f.anyError(), about, len(about.ip())-600-headerTCP+8).bytes())
	if err != nil {
		r.Fatal(err)
	}
	if verdict != xdpTX {
		return -1
	}
	return int(out[4])<<8 | int(out[5])
}

// states are what the flow table holds, whatever it is called: while the affinity of a
// VIP changes, who is looked up gets its new hash in its place.
func (r *fluxRig) states() []uint64 {
	var all []uint64
	for i := range r.plane.flows.elements {
		for j := range r.plane.flows.elements[i].Flow {
			all = append(all, r.plane.flows.elements[i].Flow[j].State)
		}
	}
	return all
}

// astray counts the flows whose errors do not go where they do; no entry of the flow
// table may be made or refreshed by them.
func (r *fluxRig) astray(at map[uint32]int) int {
	r.Helper()
	before, events := r.states(), r.events()
	n := 0
	for f, backend := range at {
		if r.error(f) != backend {
			n++
		}
	}
	if !slices.Equal(before, r.states()) || r.events() != events {
		r.Error("ICMP errors have changed the flow table")
	}
	return n
}

// TestErrorsInFlux: an error about a flow reaches the backend that the flow is on,
// through every change, before and after the flow table knows it, and leaves no trace.
func TestErrorsInFlux(t *testing.T) {
	t.Parallel()
	for name, churn := range churns {
		for _, tracking := range []model.Tracking{model.TrackingFlux, model.TrackingAlways} {
			if tracking == model.TrackingAlways && name != "affinity" && name != "another pool" {
				continue // no less is known then
			}
			for _, f := range families() {
				for _, mode := range []model.Mode{model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE} {
					t.Run(fmt.Sprintf("%s, %s, %s, %s", name, tracking, f.name, mode), func(t *testing.T) {
						r := newFluxRig(t, tracking, model.TCP)
						r.take(f, mode)
						r.errorsInFlux(churn)
					})
				}
			}
		}
	}
}

func (r *fluxRig) errorsInFlux(churn func(*fluxRig)) {
	for n := 1; n < 4; n++ {
		r.add(0, n)
	}
	r.apply()
	old := r.open(0, 300)
	astray := r.astray(old)
	churn(r)
	astray += r.astray(old) // which have not shown themselves
	young := r.open(1<<16, 300)
	r.now += 100
	r.plane.SetClock(r.now) // an error would refresh what is that old
	churn(r)
	astray += r.astray(young)
	if astray += r.broken(old) + r.astray(old); astray > 0 {
		r.Errorf("%d errors went astray", astray)
	}
}

// The control: without tracking, errors go by the slot, as the packets do.
func TestErrorsWithoutTracking(t *testing.T) {
	t.Parallel()
	for _, f := range families() {
		for _, mode := range []model.Mode{model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE} {
			t.Run(fmt.Sprintf("%s, %s", f.name, mode), func(t *testing.T) {
				r := newFluxRig(t, model.TrackingNone, model.TCP)
				r.take(f, mode)
				r.add(0, 1)
				r.apply()
				old := r.open(0, 300)
				for n := 2; n < 9; n++ {
					r.add(0, n)
				}
				r.apply()
				if r.astray(old) == 0 {
					t.Error("none went astray: the test shows nothing")
				}
			})
		}
	}
}

// onOneCPU calls f on a thread that stays on one CPU.
func onOneCPU(f func() error) error {
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	err := f()
	if restored := unix.SchedSetaffinity(0, &all); restored != nil {
		return errors.Join(err, restored) // locked still: the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// TestAnswersAreFew: a CPU gives as many answers as it may, then none, then some
// again; what is not answered is dropped under the name of its trouble.
func TestAnswersAreFew(t *testing.T) {
	for _, rate := range []uint32{0, 20} {
		options := testOptions()
		options.ICMPRate = rate
		l := newLabWith(t, options)
		for _, f := range families() {
			s := l.at(f, portTunnel4)
			large := f.packet(udp{from: 1, to: portTunnel4, data: text(1500)})
			dying := f.packet(udp{from: 1, to: portTunnel4})
			dying.ttl = 1
			rows := map[string][2]row{
				"size": {s.tooBig("size", large), s.counted("size", "drop_too_big", large)},
				"ttl":  {s.exceeded("ttl", dying), s.counted("ttl", "drop_ttl_exceeded", dying)},
			}
			for name, r := range rows {
				before := l.count(t, r[1].reason)
				err := onOneCPU(func() error { return limited(t, l, rate, r[0], r[1]) })
				if l.count(t, r[1].reason) == before {
					err = errors.Join(err, errors.New("no drop is counted as "+r[1].reason))
				}
				if err != nil {
					t.Errorf("%s, %s at %d a second: %v", f.name, name, rate, err)
				}
			}
		}
	}
}

// limited sends a packet until it has been answered, not answered, and answered
// again. The thread is not the lab's own, so that it stays where it is.
func limited(t *testing.T, l *lab, rate uint32, answered, dropped row) error {
	began, answers, refused := time.Now(), 0, false
	for deadline := began.Add(20 * time.Second); time.Now().Before(deadline); {
		verdict, out, err := send(l.Plane, answered.in)
		if err != nil {
			return err
		}
		if verdict != xdpTX {
			if err := errors.Join(checkVerdict(verdict, dropped.reason), checkBytes(out, dropped.in)); err != nil || rate == 0 {
				return err
			}
			refused = true
			continue
		}
		answers++
		if err := checkBytes(out, answered.out); err != nil {
			return err
		}
		// The clock that it is reckoned by is a coarse one.
		if most := int(float64(rate)*(1+time.Since(began).Seconds())) + 1; answers > most {
			t.Errorf("%d answers, at most %d may be", answers, most)
		}
		if refused {
			return nil
		}
	}
	return fmt.Errorf("%d answers, refused %v", answers, refused)
}
