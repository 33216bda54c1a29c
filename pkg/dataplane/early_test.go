package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// only keeps the VIPs of one way, on whose address no others are then.
func only(w way, change func(*model.VIP)) func(*model.VIP) {
	return func(v *model.VIP) {
		change(v)
		if v.Endpoints[0].Ports.First != w.port {
			e := &v.Endpoints[0]
			// Out of the way of what is on this address.
			for range v.Endpoints[0].Ports.First {
				e.Address = e.Address.Next()
			}
		}
	}
}

// TestEarlyFragments: what comes before the first fragment goes where addresses and
// protocol say, and the first one follows. Whole packets go by the 5-tuple.
func TestEarlyFragments(t *testing.T) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			c := newCrowd(t, Limits{Fragments: 1 << 10}, testOptions(), only(w, hashes))
			id, parted := uint32(0x5555), 0
			c.everyFlow([]way{w}, 60, func(f family, _ way, p packet) service {
				s := c.owner(f, w, hashOf(p))
				early := testSeed().Hash(blind(p))
				where := c.owner(f, w, early)
				for range 2 {
					id += 0x10001
					parts := split(p, id, nil, 40, 80)
					c.must("last", c.reaches(parts[2], where, early))
					c.must("first", c.reaches(parts[0], where, hashOf(p)))
					c.must("middle", c.reaches(parts[1], where, 0))
				}
				c.must("whole", c.reaches(p, s, hashOf(p)))
				id += 0x10001
				parts := split(p, id, nil, 40, 80)
				c.must("first in order", c.reaches(parts[0], s, hashOf(p)))
				c.must("middle in order", c.reaches(parts[1], s, 0))
				if where.backend != s.backend {
					parted++
				}
				return s
			})
			if parted == 0 {
				t.Error("whole packets went where fragments go: the test shows nothing")
			}
		})
	}
}

// TestEarlyFragmentsWithAffinity: where the source chooses, fragments of a client
// and its whole packets go to one backend in whatever order they come.
func TestEarlyFragmentsWithAffinity(t *testing.T) {
	a := model.Affinity{Scope: model.AffinityPool, IPv4Prefix: 32, IPv6Prefix: 128}
	l2 := ways()[0]
	c := newCrowd(t, Limits{Fragments: 1 << 10}, testOptions(), only(l2, func(v *model.VIP) {
		hashes(v)
		v.Affinity = a
	}))
	id := uint32(0x5555)
	c.everyFlow([]way{l2}, 60, func(f family, w way, p packet) service {
		s := c.owner(f, w, testSeed().AffineHash(blind(p), "", a))
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}} {
			id += 0x10001
			parts := split(p, id, nil, 40, 80)
			for _, i := range order {
				c.must(fmt.Sprint("fragment ", i, " of order ", order), c.reaches(parts[i], s, 0))
			}
		}
		c.must("whole", c.reaches(p, s, 0))
		return s
	})
}

// counted are events of both tables.
func (c *crowd) counted(event lbFlowEvent) uint64 {
	c.Helper()
	var perCPU []uint64
	if err := c.maps.FlowEvents.Lookup(uint32(event), &perCPU); err != nil {
		c.Fatal(err)
	}
	sum := uint64(0)
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// TestFloodOfFragments takes nothing from flows, whether its fragments are first ones
// or come early, and is bounded by the room for fragments.
func TestFloodOfFragments(t *testing.T) {
	l2 := ways()[0]
	c := newCrowd(t, Limits{Fragments: 64, Flows: 1 << 12}, testOptions(), only(l2, func(v *model.VIP) {
		hashes(v)
		v.Tracking = model.TrackingAlways
	}))
	c.everyFlow([]way{l2}, 60, func(f family, w way, p packet) service {
		s := c.owner(f, w, hashOf(p))
		c.must("flow", c.reaches(p, s, hashOf(p)))
		return s
	})
	before, flows := c.counted(lbFlowEventFLOW_REMEMBERED), slices.Clone(c.flows.elements)
	if before < 200 {
		t.Fatalf("%d flows remembered", before)
	}
	id := uint32(1)
	c.everyFlow([]way{l2}, 1500, func(f family, w way, p packet) service {
		id += 0x10001
		_, _, err := send(c.Plane, split(p, id, nil, 40, 80)[1+id%2].bytes())
		c.must("early", err)
		return c.owner(f, w, testSeed().Hash(blind(p)))
	})
	if c.counted(lbFlowEventFRAGMENT_REMEMBERED) < 3000 || c.counted(lbFlowEventFRAGMENT_EVICTED) < 3000 {
		t.Errorf("%d fragments remembered, %d evicted", c.counted(lbFlowEventFRAGMENT_REMEMBERED), c.counted(lbFlowEventFRAGMENT_EVICTED))
	}
	counters, err := c.Counters()
	c.must("counters", err)
	want := model.FragmentTable{Remembered: c.counted(lbFlowEventFRAGMENT_REMEMBERED), Evicted: c.counted(lbFlowEventFRAGMENT_EVICTED)}
	if counters.Fragments != want {
		t.Errorf("shown are %+v, want %+v", counters.Fragments, want)
	}
	if got := c.counted(lbFlowEventFLOW_REMEMBERED); got != before || !slices.Equal(flows, c.flows.elements) {
		t.Errorf("the flow table has changed: %d flows remembered, before %d", got, before)
	}
}

// TestOldFragmentsAreForgotten: what is remembered of a packet for longer than
// anybody waits for the rest of it does not lead the fragments of another.
func TestOldFragmentsAreForgotten(t *testing.T) {
	c := newCrowd(t, Limits{Fragments: 64}, testOptions(), nil)
	f, w := ipv4(), ways()[0]
	p := f.packet(udp{from: 1, to: w.port, data: text(200)})
	parts := split(p, 7, nil, 40, 80)
	s := c.owner(f, w, hashOf(p))
	c.must("first", c.reaches(parts[0], s, hashOf(p)))
	c.must("middle", c.reaches(parts[1], s, 0))
	const tick, idle = 1 << 27, 30_000_000_000
	aged := 0
	for i := range c.fragments.elements {
		for j := range c.fragments.elements[i].Flow {
			e := &c.fragments.elements[i].Flow[j]
			key, state, ok := loadFlow(e)
			if !ok {
				continue
			}
			state = state&^flowTickMask | (state-idle/tick-1)&flowTickMask
			*e = lbFlow{Key: sealFlow(key, state), State: state}
			aged++
		}
	}
	verdict, out, err := send(c.Plane, parts[2].bytes())
	if err = errors.Join(err, checkVerdict(verdict, "drop_fragment_early"), checkBytes(out, parts[2].bytes())); err != nil || aged != 1 {
		t.Errorf("%d aged: %v", aged, err)
	}
	c.must("first again", c.reaches(parts[0], s, hashOf(p)))
	c.must("last", c.reaches(parts[2], s, 0))
}

// TestFragmentsOfRemovedVIPs: a number that is free leads no fragment.
func TestFragmentsOfRemovedVIPs(t *testing.T) {
	c := newCrowd(t, Limits{Fragments: 64}, testOptions(), nil)
	f, w := ipv6(), ways()[3]
	p := f.packet(udp{from: 1, to: w.port, data: text(200)})
	parts := split(p, 7, nil, 40, 80)
	c.must("first", c.reaches(parts[0], c.owner(f, w, hashOf(p)), hashOf(p)))
	applyTo(t, c.Plane, c.state(func(v *model.VIP) {
		if v.Endpoints[0] == (model.Endpoint{Address: p.destination, Ports: model.Port(w.port)}) {
			v.Name, v.Endpoints = "another", listen(f.foreign, w.port)
		}
	}))
	out := ebpf.RunOptions{Data: parts[1].bytes()}
	verdict, _, err := sendWith(c.Plane, out)
	if err = errors.Join(err, checkVerdict(verdict, "drop_fragment_early")); err != nil {
		t.Error(err)
	}
}
