package flux

import (
	"slices"

	"pgregory.net/rapid"
)

// scenario is data, so that it can be made smaller and shown.
type scenario struct {
	// Slots of each pool, which is as many as a Maglev table may have: a prime.
	Slots   []int
	Buckets int
	Steps   []step
}

type step struct {
	Do action
	// A and B are the action's operands, taken modulo what there is.
	A, B int
}

type action uint8

const (
	nothing action = iota
	openFlows
	openAgain
	resend
	sendNow
	fallSilent
	wake
	closeFlow
	endFlow
	passTime
	sweepSome
	sweepAll
	addBackend
	drainBackend
	enableBackend
	loseBackend
	removeBackend
	changeWeight
	pointVIP
	floodOpeners
	floodStrangers

	actions
)

// likely has every action as often as it is to be chosen.
func likely() []action {
	often := map[action]int{
		openFlows: 6, openAgain: 2, resend: 1, sendNow: 1, fallSilent: 1, wake: 1, closeFlow: 2, endFlow: 2,
		passTime: 14, sweepSome: 5, sweepAll: 2, addBackend: 3, drainBackend: 3, enableBackend: 3,
		loseBackend: 1, removeBackend: 2, changeWeight: 2, pointVIP: 2, floodOpeners: 1, floodStrangers: 1,
	}
	all := []action{nothing}
	for a := range actions {
		all = append(all, slices.Repeat([]action{a}, often[a])...)
	}
	return all
}

func scenarios() *rapid.Generator[scenario] {
	// Unlike ranges of integers, samples are not mostly small.
	what := rapid.SampledFrom(likely())
	operands := make([]int, 1000)
	for i := range operands {
		operands[i] = i
	}
	operand := rapid.SampledFrom(operands)
	steps := rapid.Custom(func(t *rapid.T) step {
		return step{what.Draw(t, "do"), operand.Draw(t, "a"), operand.Draw(t, "b")}
	})
	return rapid.Custom(func(t *rapid.T) scenario {
		return scenario{
			Slots:   rapid.SliceOfN(rapid.SampledFrom([]int{13, 31, 61, 127, 251}), poolCount, poolCount).Draw(t, "slots"),
			Buckets: rapid.SampledFrom([]int{64, 64, 64, 16, 4, 1}).Draw(t, "buckets"),
			Steps:   rapid.SliceOfN(steps, 200, 600).Draw(t, "steps"),
		}
	})
}

// play plays a scenario until a flow breaks.
func play(s scenario, f faults) *memory {
	m := newMemory(newWorld(f, s.Slots, s.Buckets))
	for i := range poolCount {
		m.add(i)
		m.add(i)
		m.add(i)
	}
	for _, step := range s.Steps {
		if m.do(step); len(m.broken) > 0 {
			break
		}
	}
	return m
}

func (m *memory) do(s step) {
	switch s.Do {
	case openFlows:
		periods := []Tick{1, 5, patience / 2, patience}
		for range s.A%6 + 1 {
			v := m.vips[s.B%len(m.vips)]
			m.open(m.newHash(v), v, periods[s.A/6%len(periods)])
		}
	case openAgain:
		m.openAgain(patience)
	case passTime:
		m.pass(Tick(s.A % patience))
	case sweepSome:
		m.advance(s.A%(len(m.flows.bucket)/8+1)+1, m.vipOf)
	case sweepAll:
		m.sweepOnce()
	case addBackend:
		m.add(s.A % poolCount)
	case pointVIP:
		m.point(m.vips[s.A%len(m.vips)], s.B%poolCount)
	case floodOpeners:
		m.flood(s.A%100, Packet{Opener: true})
	case floodStrangers:
		m.flood(s.A%100, Packet{})
	case drainBackend, enableBackend, loseBackend, removeBackend, changeWeight:
		m.doBackend(s)
	case resend, sendNow, fallSilent, wake, closeFlow, endFlow:
		m.doFlow(s)
	}
}

// doBackend changes one of the backends that have not left.
func (m *memory) doBackend(s step) {
	var there []uint32
	for i, b := range m.backends {
		if b.identity != 0 && b.left == 0 {
			there = append(there, uint32(i))
		}
	}
	if len(there) == 0 {
		return
	}
	index := there[s.A%len(there)]
	switch s.Do {
	case drainBackend: // or its check flaps within the grace time
		m.change(index, m.able(index)&KeepsFlows)
	case enableBackend:
		m.change(index, TakesFlows|KeepsFlows)
	case loseBackend:
		m.die(index)
	case removeBackend:
		m.remove(index)
	case changeWeight:
		m.backends[index].salt = mix(uint64(s.B))
		m.balance(int(index) / numbersPerPool)
	}
}

func (m *memory) doFlow(s step) {
	if len(m.alive) == 0 {
		return
	}
	f := m.alive[s.A%len(m.alive)]
	switch s.Do {
	case resend:
		if f.excused == "" && !f.closing {
			if m.start(f); f.index < First {
				m.end(f)
			}
		}
	case sendNow:
		m.send(f, false)
	case fallSilent:
		f.silent = true
	case wake:
		if f.silent {
			f.silent = false
			m.send(f, false)
		}
	case closeFlow:
		m.send(f, true)
	case endFlow:
		m.end(f)
	}
}
