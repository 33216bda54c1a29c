package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"
)

// suite is what is measured, and how thoroughly.
type suite struct {
	cases    []testCase
	programs []program
	// rounds in which every program takes a turn.
	rounds int
	// packets of a turn.
	packets uint32
	// cpu to run on; negative: the last one allowed.
	cpu int
}

// run measures everything. It takes the garbage collector out of the way until it
// returns; the thread that it pins to a CPU ends with the goroutine.
func (s *suite) run() (*report, error) {
	runtime.LockOSThread()
	cpu, err := pin(s.cpu)
	if err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	rep := &report{Machine: machine(cpu), Rounds: s.rounds, Packets: s.packets, FrameBytes: frameLength}
	for _, c := range s.cases {
		if err := s.runCase(c, rep); err != nil {
			return nil, fmt.Errorf("case %q: %w", c.name, err)
		}
		runtime.GC()
	}
	return rep, nil
}

func (s *suite) runCase(c testCase, rep *report) (err error) {
	r, err := newRig(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if rep.Programs == nil {
		if rep.Programs, err = s.describe(r); err != nil {
			return err
		}
	}
	for _, flows := range c.flows {
		if err := r.setFlows(flows); err != nil {
			return err
		}
		results, err := s.runRounds(r, uint32(flows))
		if err != nil {
			return fmt.Errorf("%d flows: %w", flows, err)
		}
		rep.Rows = append(rep.Rows, row{Case: c.name, Flows: flows, Results: results})
	}
	return nil
}

// runRounds lets the programs take turns. Before the first round each sees every
// flow once, which fills the caches.
func (s *suite) runRounds(r *rig, flows uint32) (map[string]spread, error) {
	samples := map[string][]float64{}
	for round := range s.rounds + 1 {
		packets := s.packets
		if round == 0 {
			packets = max(flows, min(s.packets, 1000))
		}
		for i := range s.programs {
			p := &s.programs[i]
			if p.entry(r) == nil {
				continue
			}
			sample, err := r.measure(p, packets)
			if err != nil {
				return nil, fmt.Errorf("program %s: %w", p.name, err)
			}
			if round > 0 {
				samples[p.name] = append(samples[p.name], sample)
			}
		}
	}
	results := map[string]spread{}
	for name, values := range samples {
		results[name] = newSpread(values)
	}
	return results, nil
}

// describe asks the kernel what it made of the programs that are under test.
func (s *suite) describe(r *rig) ([]programInfo, error) {
	var out []programInfo
	for _, p := range s.programs {
		described := programInfo{Name: p.name, Measured: p.measured, TailCall: p.subject != nil}
		if p.measured {
			info, err := p.subject(r).Info()
			if err != nil {
				return nil, err
			}
			verified, known := info.VerifiedInstructions()
			if !known {
				return nil, errors.New("the kernel does not tell how many instructions it verified; Linux 5.16 or later does")
			}
			described.VerifiedInstructions = verified
			if described.MachineCodeBytes, err = info.JitedSize(); err != nil {
				return nil, err
			}
			if described.BytecodeBytes, err = info.TranslatedSize(); err != nil {
				return nil, err
			}
		}
		out = append(out, described)
	}
	return out, nil
}

// pin keeps this thread on one CPU and returns which.
func pin(cpu int) (int, error) {
	var set unix.CPUSet
	if cpu < 0 {
		if err := unix.SchedGetaffinity(0, &set); err != nil {
			return 0, fmt.Errorf("ask for the CPUs to run on: %w", err)
		}
		for i := range len(set) * 64 {
			if set.IsSet(i) {
				cpu = i
			}
		}
	}
	set.Zero()
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("run on CPU %d: %w; choose another with -cpu", cpu, err)
	}
	return cpu, nil
}

// spread sums up samples.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newSpread(samples []float64) spread {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1]}
}
