package main

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// workload is connections and what happens to the fleet meanwhile.
type workload struct {
	churn       string // what kind of changes, if there is but one
	seed        uint64
	slots       uint32 // of every table, a prime
	backends    int    // at first
	balancers   int
	length      time.Duration
	connections int // started, evenly spread over the length
	changes     []change
}

// change is something that happens at a time.
type change struct {
	at   time.Duration
	what event
	// which backend or balancer. Backends beyond the first ones are new.
	which int
}

type event uint8

const (
	// A backend gets new connections from now on, or gets none any more and
	// keeps those that it has.
	join event = iota
	drain
	// A balancer loses all that it knows, or comes back knowing nothing.
	kill
	revive
)

const (
	slots       = 65537
	longestLife = 600 * time.Second
	// longestGap is how long connections are silent at most.
	longestGap = 15 * time.Second
)

// life draws how long a connection lives: nine in ten up to 10 s, their
// logarithm evenly spread from 0.1 s on, and one in ten from 10 to 600 s by a
// truncated Pareto distribution of shape 1/2.
func life(random *rand.Rand) time.Duration {
	const shortest, short, tail, shape = 0.1, 10.0, 0.1, 0.5
	u := random.Float64()
	if random.Float64() >= tail {
		return seconds(shortest * math.Pow(short/shortest, u))
	}
	beyond := 1 - math.Pow(short/longestLife.Seconds(), shape)
	return seconds(short / math.Pow(1-u*beyond, 1/shape))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// literature is the workload of Mendelson et al., "Load balancing with JET: just
// enough tracking for connection consistency", CoNEXT 2020, with balancers that
// come and go: see docs/flux-simulation.md for what it leaves open.
func literature(scale float64, seed uint64) workload {
	const (
		removals    = 6 * time.Second // one on average
		absence     = time.Minute     // on average
		kills       = 30 * time.Second
		killed      = 20 * time.Second
		backends    = 468
		balancers   = 8
		connections = 4_700_000
	)
	w := workload{
		seed: seed, slots: slots, backends: backends, balancers: balancers,
		length: 1000 * time.Second, connections: int(connections * scale),
	}
	random := rand.New(rand.NewPCG(seed, 1))
	back := make([]time.Duration, backends) // when each is there again
	exponential := func(mean time.Duration) time.Duration { return seconds(random.ExpFloat64() * mean.Seconds()) }
	for at := exponential(removals); at < w.length; at += exponential(removals) {
		which := random.IntN(backends)
		for back[which] > at {
			which = random.IntN(backends)
		}
		back[which] = at + exponential(absence)
		w.changes = append(w.changes, change{at, drain, which}, change{back[which], join, which})
	}
	for at := kills; at < w.length; at += kills {
		which := random.IntN(balancers)
		w.changes = append(w.changes, change{at, kill, which}, change{at + killed, revive, which})
	}
	return w.inOrder()
}

func (w workload) inOrder() workload {
	slices.SortStableFunc(w.changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	return w
}

// design has the workloads of the project's design: the same fleet and
// connections under one kind of change each.
func design(scale float64, seed uint64) []workload {
	const backends, balancers = 50, 4
	every := func(pause time.Duration, times int, at func(i int, at time.Duration) []change) []change {
		var all []change
		for i := range times {
			all = append(all, at(i, pause*time.Duration(i+1))...)
		}
		return all
	}
	added := every(30*time.Second, 10, func(i int, at time.Duration) []change {
		return []change{{at, join, backends + i}}
	})
	drained := every(30*time.Second, 10, func(i int, at time.Duration) []change {
		return []change{{at, drain, i}}
	})
	flapping := every(20*time.Second, 20, func(_ int, at time.Duration) []change {
		return []change{{at, drain, 0}, {at + 5*time.Second, join, 0}}
	})
	replaced := every(10*time.Second, backends, func(i int, at time.Duration) []change {
		return []change{{at, join, backends + i}, {at + 5*time.Second, drain, i}}
	})
	balancing := every(time.Minute, 9, func(i int, at time.Duration) []change {
		return []change{{at, kill, i % balancers}, {at + 30*time.Second, revive, i % balancers}}
	})
	var all []workload
	for _, c := range []struct {
		name    string
		changes []change
	}{
		{"backends-added", added},
		{"backends-drained", drained},
		{"backend-flapping", flapping},
		{"all-backends-replaced", replaced},
		{"balancers-come-and-go", balancing},
		{"balancers-and-backends", slices.Concat(added, drained, balancing)},
	} {
		w := workload{
			churn: c.name, seed: seed, slots: slots, backends: backends, balancers: balancers,
			length: 600 * time.Second, connections: int(150_000 * scale), changes: c.changes,
		}
		all = append(all, w.inOrder())
	}
	return all
}
