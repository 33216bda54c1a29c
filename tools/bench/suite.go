package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

// suite is what is measured, and how thoroughly.
type suite struct {
	cases    []testCase
	programs []program
	// rounds in which every program takes a turn.
	rounds int
	// packets of a turn.
	packets uint32
	// executed says that what packets execute is counted as well.
	executed bool
	// cpu to run on; negative: the last one allowed.
	cpu int
	// progress is told which case is next.
	progress io.Writer
}

// run measures everything. It takes the garbage collector out of the way until it
// returns; the thread that it pins to a CPU, in a network namespace of its own, ends
// with the goroutine.
func (s *suite) run() (*report, error) {
	if err := enterSpace(); err != nil {
		return nil, err
	}
	cpu, err := measure.Pin(s.cpu)
	if err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	rep := &report{Machine: measure.ThisMachine(cpu), Rounds: s.rounds, Packets: s.packets, Programs: s.infos()}
	if rep.Structure, err = structure(); err != nil {
		return nil, err
	}
	for i, c := range s.cases {
		fmt.Fprintf(s.progress, "%d of %d: %s\n", i+1, len(s.cases), c.name)
		if err := s.runCase(c, rep); err != nil {
			return nil, fmt.Errorf("case %q: %w", c.name, err)
		}
		runtime.GC()
	}
	return rep, nil
}

func (s *suite) infos() []programInfo {
	var all []programInfo
	for _, p := range s.programs {
		all = append(all, programInfo{p.name, p.measured()})
	}
	return all
}

// flows are the numbers of a case's flows, one for each measurement.
func (s *suite) flows(c *testCase) []uint64 {
	if c.fresh() {
		return []uint64{max(1000, uint64(s.packets)) * uint64(s.rounds+1)}
	}
	return c.flows
}

func (s *suite) runCase(c testCase, rep *report) error {
	rows, err := s.time(c)
	if err != nil {
		return err
	}
	if s.executed {
		// The path of a packet is the same with more flows; what it waits for is not.
		fewest := slices.MinFunc(rows, func(a, b *row) int { return cmp.Compare(a.Flows, b.Flows) })
		if fewest.Executed, err = execute(c, s.programs); err != nil {
			return fmt.Errorf("what packets execute: %w", err)
		}
	}
	for _, r := range rows {
		rep.Rows = append(rep.Rows, *r)
	}
	return nil
}

// time measures a case with each number of flows.
func (s *suite) time(c testCase) (rows []*row, err error) {
	numbers := s.flows(&c)
	r, err := newRig(c, s.programs, slices.Max(numbers))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for _, flows := range numbers {
		if err := r.setFlows(flows); err != nil {
			return nil, err
		}
		results, err := s.runRounds(r, uint32(flows))
		if err != nil {
			return nil, fmt.Errorf("%d flows: %w", flows, err)
		}
		rows = append(rows, &row{Case: c.name, Flows: flows, Fresh: c.fresh(), Results: results})
	}
	return rows, nil
}

// runRounds lets the programs take turns.
func (s *suite) runRounds(r *rig, flows uint32) (map[string]measure.Spread, error) {
	if err := r.warm(s.programs, flows); err != nil {
		return nil, err
	}
	samples := map[string][]float64{}
	for range s.rounds {
		for i := range s.programs {
			p := &s.programs[i]
			if p.entry(r) == nil {
				continue
			}
			sample, err := r.measure(p, s.packets)
			if err != nil {
				return nil, fmt.Errorf("program %s: %w", p.name, err)
			}
			samples[p.name] = append(samples[p.name], sample)
		}
	}
	results := map[string]measure.Spread{}
	for name, values := range samples {
		results[name] = measure.NewSpread(values)
	}
	return results, nil
}
