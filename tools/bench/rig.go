package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/pkg/config"
	"github.com/steelyard-lb/steelyard/pkg/dataplane"
)

// seed keys the flow hash. Any will do; a fixed one makes runs comparable.
func seed() dataplane.Seed { return dataplane.Seed{0x0123456789abcdef, 0xfedcba9876543210} }

// rig is the data plane with one case's state, and the generator with its frame.
type rig struct {
	testCase  testCase
	plane     *dataplane.Plane
	generator benchObjects
	frame     []byte
}

// program is what takes its turn in a round.
type program struct {
	name string
	// entry makes the frames; the kernel runs it. It is nil if the case has no such program.
	entry func(*rig) *ebpf.Program
	// subject is what entry calls, nil if it calls nothing.
	subject func(*rig) *ebpf.Program
	// measured says that the subject is Steelyard, which counts what it does.
	measured bool
}

const (
	nameGenerator = "generator"
	nameFloor     = "floor"
	nameTail      = "tail"
)

func programs() []program {
	call := func(r *rig) *ebpf.Program { return r.generator.Call }
	return []program{
		{name: nameGenerator, entry: func(r *rig) *ebpf.Program { return r.generator.Generator }},
		{name: nameFloor, entry: func(r *rig) *ebpf.Program {
			if r.testCase.floor == nil {
				return nil
			}
			return r.testCase.floor(&r.generator)
		}},
		{name: nameTail, entry: call, subject: func(r *rig) *ebpf.Program { return r.generator.Transmit }},
		{name: "steelyard", entry: call, measured: true, subject: func(r *rig) *ebpf.Program { return r.plane.Program() }},
	}
}

func newRig(c testCase) (*rig, error) {
	limits := dataplane.Limits(config.Default().Limits)
	limits.Flows = max(limits.Flows, 4*uint32(slices.Max(c.flows)))
	plane, err := dataplane.Load(limits, dataplane.Options{Seed: seed(), Screening: c.screens})
	if err != nil {
		return nil, err
	}
	r := &rig{testCase: c, plane: plane, frame: newFrame(c.target(), c.protocol)}
	if err := r.setUp(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *rig) setUp() error {
	// Test runs see packets come from the loopback interface.
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	pools := []string{"bench"}
	if r.testCase.inFlux {
		pools = []string{"former", "bench"}
	}
	for _, pool := range pools {
		state, err := r.testCase.state(pool, loopback.Index)
		if err != nil {
			return err
		}
		if err := r.plane.Apply(state); err != nil {
			return err
		}
	}
	return r.loadGenerator()
}

func (r *rig) loadGenerator() error {
	spec, err := loadBench()
	if err != nil {
		return err
	}
	target := r.testCase.target()
	var wirePort [2]byte
	binary.BigEndian.PutUint16(wirePort[:], target.Port())
	for name, value := range map[string]any{
		"frame":        frameWords(r.frame),
		"ipv6":         r.testCase.ipv6,
		"destination":  addressEnd(target.Addr()),
		"destinations": r.testCase.destinations(),
		"port":         wirePort,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("generator: %s: %w", name, err)
		}
	}
	if err := spec.LoadAndAssign(&r.generator, nil); err != nil {
		return fmt.Errorf("load the generator: %w", err)
	}
	return nil
}

func (r *rig) close() error {
	return errors.Join(r.generator.Close(), r.plane.Close())
}

// setFlows says how many flows take turns, beginning with the first.
func (r *rig) setFlows(flows uint64) error {
	return errors.Join(r.generator.Flows.Set(flows), r.generator.Turn.Set(uint64(0)))
}

// measure gives a program its turn of at least that many packets, and returns its
// time for one of them in nanoseconds. It fails if the packets did not fare as the
// case says.
func (r *rig) measure(p *program, packets uint32) (float64, error) {
	if p.subject != nil {
		if err := r.generator.UnderTest.Put(uint32(0), p.subject(r)); err != nil {
			return 0, fmt.Errorf("put the program under test in place: %w", err)
		}
	}
	before, err := r.count()
	if err != nil {
		return 0, err
	}
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	verdict, err := p.entry(r).Run(&ebpf.RunOptions{Data: r.frame, Repeat: packets})
	if err != nil {
		return 0, err
	}
	stop, err := threadTime()
	if err != nil {
		return 0, err
	}
	after, err := r.count()
	if err != nil {
		return 0, err
	}
	// A signal makes the kernel begin again, so it may have been more than asked for.
	generated := after.generated - before.generated
	if generated < uint64(packets) {
		return 0, fmt.Errorf("%d of %d frames were made", generated, packets)
	}
	if err := r.check(p, verdict, generated, before, after); err != nil {
		return 0, err
	}
	return float64(stop-start) / float64(generated), nil
}

// counts are the generator's and the program's counters at one moment.
type counts struct {
	generated uint64
	reasons   map[string]uint64
}

func (r *rig) count() (counts, error) {
	c := counts{reasons: map[string]uint64{}}
	if err := r.generator.Generated.Get(&c.generated); err != nil {
		return counts{}, err
	}
	counters, err := r.plane.Counters()
	if err != nil {
		return counts{}, err
	}
	for _, reason := range counters.Reasons {
		c.reasons[reason.Name] = reason.Packets
	}
	return c, nil
}

// check compares what became of the packets with what the case says: the verdict
// of the last, and the reasons of all.
func (r *rig) check(p *program, verdict uint32, generated uint64, before, after counts) error {
	wanted := uint32(verdictTX)
	if p.measured {
		wanted = r.testCase.verdict
	}
	for reason, packets := range after.reasons {
		packets -= before.reasons[reason]
		expected := uint64(0)
		if p.measured && reason == r.testCase.reason {
			expected = generated
		}
		if packets != expected {
			return fmt.Errorf("%d packets of %d left as %s, want %d", packets, generated, reason, expected)
		}
	}
	if verdict != wanted {
		return fmt.Errorf("verdict %d, want %d", verdict, wanted)
	}
	return nil
}

// threadTime is the CPU time that this thread has used: finer than what the kernel
// reports of a test run, and without the time that others had the CPU.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
