package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/maglev"
)

const (
	tickLength = 100 * time.Millisecond
	// closingIdle is how long a flow that has ended is remembered.
	closingIdle = flux.Tick(time.Minute / tickLength)
	sweepEvery  = flux.Tick(5 * time.Second / tickLength)
)

func ticks(d time.Duration) flux.Tick { return flux.Tick(d / tickLength) }

// connection is one of those that are alive.
type connection struct {
	hash uint64
	end  flux.Tick
	gap  flux.Tick // between packets
	// backend is the one that got the opener: the same in every scheme.
	backend uint32
	// broken has a bit for each scheme.
	broken uint8
}

// result is what became of a workload under a scheme.
type result struct {
	scheme              string
	broken, trackedPeak int
}

// simulation plays a workload for all schemes at once.
type simulation struct {
	workload
	random  *rand.Rand
	now     flux.Tick
	members []maglev.Backend
	alive   []bool // balancers
	live    []int  // numbers of those that are
	schemes []namedScheme
	results []result

	connections []connection
	unused      []uint32 // places in connections
	// due has the connections that send in a tick, modulo its length.
	due [][]uint32
}

// play runs a workload and returns the results in the order of [schemes].
func play(w workload, idle time.Duration) ([]result, error) {
	s := &simulation{
		workload: w,
		random:   rand.New(rand.NewPCG(w.seed, 2)),
		alive:    make([]bool, w.balancers),
		due:      make([][]uint32, ticks(longestGap)+1),
	}
	for i := range w.balancers {
		s.alive[i] = true
		s.live = append(s.live, i)
	}
	for i := range w.backends {
		s.members = append(s.members, maglev.Backend{ID: backendID(i), Weight: 1})
	}
	owners, err := s.table()
	if err != nil {
		return nil, err
	}
	s.schemes = schemes(owners, w.balancers, ticks(idle))
	for _, scheme := range s.schemes {
		s.results = append(s.results, result{scheme: scheme.name})
	}
	started := 0
	for end := ticks(w.length); s.now < end; s.now++ {
		if err := s.change(); err != nil {
			return nil, err
		}
		s.send()
		for ; started < w.connections*int(s.now+1)/int(end); started++ {
			s.start()
		}
		if s.now%sweepEvery == 0 {
			s.sweep()
		}
	}
	return s.results, nil
}

func backendID(i int) string { return fmt.Sprintf("192.0.2.1:%d", i) }

// table builds the owners of all slots.
func (s *simulation) table() ([]uint32, error) {
	owners, err := maglev.Build(s.slots, s.members)
	for i := range owners {
		owners[i] += flux.First
	}
	return owners, err
}

// change makes the changes that are due.
func (s *simulation) change() error {
	moved := false
	for ; len(s.changes) > 0 && ticks(s.changes[0].at) <= s.now; s.changes = s.changes[1:] {
		c := s.changes[0]
		switch c.what {
		case join, drain:
			s.setWeight(c.which, c.what == join)
			moved = true
		case kill, revive:
			s.setAlive(c.which, c.what == revive)
		}
	}
	if !moved {
		return nil
	}
	owners, err := s.table()
	if err != nil {
		return err
	}
	for _, scheme := range s.schemes {
		scheme.move(owners, s.now)
	}
	return nil
}

func (s *simulation) setWeight(which int, takes bool) {
	for i := len(s.members); i <= which; i++ {
		s.members = append(s.members, maglev.Backend{ID: backendID(i)})
	}
	s.members[which].Weight = 0
	if takes {
		s.members[which].Weight = 1
	}
}

func (s *simulation) setAlive(which int, alive bool) {
	s.alive[which] = alive
	s.live = s.live[:0]
	for i, alive := range s.alive {
		if alive {
			s.live = append(s.live, i)
		}
	}
	for _, scheme := range s.schemes {
		if alive {
			scheme.revive(which, s.now)
		} else {
			scheme.kill(which)
		}
	}
}

// balancer is where routers send a flow: ECMP by hash modulo the balancers that
// are there, as simple routers do.
func (s *simulation) balancer(hash uint64) int {
	return s.live[uint32(hash)%uint32(len(s.live))]
}

// start begins a connection. Its opener goes to the slot's owner in any scheme.
func (s *simulation) start() {
	lifetime := life(s.random)
	c := connection{
		hash: s.random.Uint64(),
		end:  s.now + max(1, ticks(lifetime)),
		// Some packets in the course of its life, more if that is long.
		gap: max(1, ticks(min(lifetime/4, longestGap))),
	}
	balancer := s.balancer(c.hash)
	for _, scheme := range s.schemes {
		c.backend = scheme.packet(balancer, c.hash, flux.Packet{Opener: true}, s.now)
	}
	var at uint32
	if last := len(s.unused) - 1; last >= 0 {
		at, s.unused = s.unused[last], s.unused[:last]
		s.connections[at] = c
	} else {
		at = uint32(len(s.connections))
		s.connections = append(s.connections, c)
	}
	s.schedule(at)
}

// schedule has a connection send its next packet when that is due.
func (s *simulation) schedule(at uint32) {
	c := &s.connections[at]
	bucket := &s.due[int(min(s.now+c.gap, c.end))%len(s.due)]
	*bucket = append(*bucket, at)
}

// send sends all packets that are due and sees where they go.
func (s *simulation) send() {
	bucket := &s.due[int(s.now)%len(s.due)]
	for _, at := range *bucket {
		c := &s.connections[at]
		p := flux.Packet{Closer: s.now >= c.end}
		balancer := s.balancer(c.hash)
		for i, scheme := range s.schemes {
			// A connection that is broken is reset, and sends no more.
			if c.broken>>i&1 == 0 && scheme.packet(balancer, c.hash, p, s.now) != c.backend {
				c.broken |= 1 << i
				s.results[i].broken++
			}
		}
		if p.Closer {
			s.unused = append(s.unused, at)
		} else {
			s.schedule(at)
		}
	}
	*bucket = (*bucket)[:0]
}

// sweep has the schemes forget what has ended. Peaks are read before that.
func (s *simulation) sweep() {
	for i, scheme := range s.schemes {
		s.results[i].trackedPeak = max(s.results[i].trackedPeak, scheme.tracked())
		scheme.sweep(s.now)
	}
}
