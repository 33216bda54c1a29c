package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// rig is what a case needs: the generator with its frame, and the load balancers with
// the case's state.
type rig struct {
	testCase  testCase
	generator benchObjects
	frame     []byte
	subjects  map[string]subject.Subject
}

// program is what takes its turn in a round.
type program struct {
	name string
	// entry makes the frames; the kernel runs it. It is nil if the case has no such program.
	entry func(*rig) *ebpf.Program
	// calls says that entry calls another program: the subject of this name, or, if
	// there can be none, one that does nothing.
	calls bool
	// load makes the subject with room for so many flows, nil if there can be none.
	load func(subject.Case, uint64) (subject.Subject, error)
}

const (
	nameGenerator = "generator"
	nameFloor     = "floor"
	nameTail      = "tail"
	nameSteelyard = "steelyard"
	nameClassic   = "classic"
)

// measured reports whether the program is a load balancer.
func (p *program) measured() bool { return p.load != nil }

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
		{name: nameTail, entry: call, calls: true},
		{name: nameSteelyard, entry: call, calls: true, load: subject.NewSteelyard},
		{name: nameClassic, calls: true, load: subject.NewClassic, entry: func(r *rig) *ebpf.Program {
			if r.testCase.alone {
				return nil
			}
			return r.generator.Call
		}},
	}
}

// newRig loads what a case needs, with room for flows.
func newRig(c testCase, programs []program, flows uint64) (*rig, error) {
	r := &rig{testCase: c, frame: c.Frame(), subjects: map[string]subject.Subject{}}
	if err := r.loadGenerator(flows); err != nil {
		return nil, err
	}
	for i := range programs {
		p := &programs[i]
		if !p.measured() || p.entry(r) == nil {
			continue
		}
		s, err := p.load(c.Case, flows)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("program %s: %w", p.name, err), r.close())
		}
		r.subjects[p.name] = s
	}
	return r, nil
}

func (r *rig) loadGenerator(flows uint64) error {
	spec, err := loadBench()
	if err != nil {
		return err
	}
	if err := r.testCase.SetUp(spec); err != nil {
		return err
	}
	if r.testCase.Packets == subject.Replies {
		spec.Maps["answers"].MaxEntries = uint32(flows)
	}
	if err := spec.LoadAndAssign(&r.generator, nil); err != nil {
		return fmt.Errorf("load the generator: %w", err)
	}
	return nil
}

func (r *rig) close() error {
	err := r.generator.Close()
	for _, s := range r.subjects {
		err = errors.Join(err, s.Close())
	}
	return err
}

// setFlows says how many flows take turns, beginning with the first.
func (r *rig) setFlows(flows uint64) error {
	if r.testCase.fresh() {
		flows = math.MaxUint32
	}
	return errors.Join(r.generator.Flows.Set(flows), r.generator.Turn.Set(uint64(0)), r.generator.Stride.Set(uint64(1)))
}

// warm lets every program see every flow once, as far as it remembers any, which also
// fills the caches. They come in another order than later on: a program that remembers
// flows one behind the other in memory must not find them so.
func (r *rig) warm(programs []program, flows uint32) error {
	if err := r.open(flows); err != nil {
		return fmt.Errorf("open the flows: %w", err)
	}
	for i := range programs {
		p := &programs[i]
		if p.entry(r) == nil {
			continue
		}
		packets := uint32(1000)
		if p.measured() && !r.testCase.fresh() {
			packets = max(packets, flows)
			if err := r.generator.Stride.Set(subject.Shuffle(uint64(flows))); err != nil {
				return err
			}
		}
		if err := r.put(p); err != nil {
			return err
		}
		if _, err := r.run(p.entry(r), packets); err != nil {
			return fmt.Errorf("program %s: %w", p.name, err)
		}
	}
	return r.generator.Stride.Set(uint64(1))
}

// open begins the flows of a VIP that translates, and learns the answers where the
// case's packets are those.
func (r *rig) open(flows uint32) error {
	c := &r.testCase
	if !c.Translates() || c.fresh() {
		return nil
	}
	entry, packets := r.generator.Call, flows
	if c.Packets == subject.Replies {
		// The answer to the last one is learnt in the run after it.
		entry, packets = r.generator.CallAndLearn, flows+1
	}
	opener := subject.FrameWords(subject.NewFrame(c.Target(), c.Protocol, true))
	if err := errors.Join(r.generator.Answering.Set(false), r.generator.Frame.Set(opener)); err != nil {
		return err
	}
	if err := r.generator.UnderTest.Put(uint32(0), r.subjects[nameSteelyard].Program()); err != nil {
		return err
	}
	if _, err := r.run(entry, packets); err != nil {
		return err
	}
	return errors.Join(r.generator.Frame.Set(subject.FrameWords(r.frame)), r.generator.Answering.Set(c.Packets == subject.Replies))
}

// put puts in place what a program calls.
func (r *rig) put(p *program) error {
	if !p.calls {
		return nil
	}
	called := r.generator.Transmit
	if p.measured() {
		called = r.subjects[p.name].Program()
	}
	if err := r.generator.UnderTest.Put(uint32(0), called); err != nil {
		return fmt.Errorf("put the program under test in place: %w", err)
	}
	return nil
}

// run runs a program on at least that many frames and returns the last one's verdict.
func (r *rig) run(entry *ebpf.Program, packets uint32) (uint32, error) {
	return entry.Run(&ebpf.RunOptions{Data: r.frame, Repeat: packets})
}

// measure gives a program its turn of at least that many packets, and returns its
// time for one of them in nanoseconds.
func (r *rig) measure(p *program, packets uint32) (float64, error) {
	t, err := r.turn(p, packets)
	return float64(t.time) / float64(t.packets), err
}

// turn is what a program had to do, and how long that took.
type turn struct {
	packets uint64
	time    time.Duration
}

// turn gives a program its turn of at least that many packets. It fails if they did not
// fare as the case says.
func (r *rig) turn(p *program, packets uint32) (turn, error) {
	if err := r.put(p); err != nil {
		return turn{}, err
	}
	before, err := r.count(p)
	if err != nil {
		return turn{}, err
	}
	start, err := threadTime()
	if err != nil {
		return turn{}, err
	}
	verdict, err := r.run(p.entry(r), packets)
	if err != nil {
		return turn{}, err
	}
	stop, err := threadTime()
	if err != nil {
		return turn{}, err
	}
	after, err := r.count(p)
	if err != nil {
		return turn{}, err
	}
	// A signal makes the kernel begin again, so it may have been more than asked for.
	generated := after.generated - before.generated
	if generated < uint64(packets) {
		return turn{}, fmt.Errorf("%d of %d frames were made", generated, packets)
	}
	return turn{generated, stop - start}, r.check(p, verdict, generated, before, after)
}

// counts are the generator's and the program's counters at one moment.
type counts struct {
	subject.Tally
	generated uint64
}

func (r *rig) count(p *program) (c counts, err error) {
	if err := r.generator.Generated.Get(&c.generated); err != nil {
		return counts{}, err
	}
	if p.measured() {
		c.Tally, err = r.subjects[p.name].Tally()
	}
	return c, err
}

// check compares what became of the packets with what the case says: the verdict of
// the last, what the program counted of all, and whether their flows were known. A full
// bucket may now and then forget one.
func (r *rig) check(p *program, verdict uint32, generated uint64, before, after counts) error {
	if !p.measured() {
		if verdict != verdictTX {
			return fmt.Errorf("verdict %d, want %d", verdict, verdictTX)
		}
		return nil
	}
	if n := after.Expected - before.Expected; n != generated {
		return fmt.Errorf("%d packets of %d fared as the case says; of those before and now, others: %s", n, generated, strings.Join(after.Where, ", "))
	}
	if want := r.verdict(p); verdict != want {
		return fmt.Errorf("verdict %d, want %d", verdict, want)
	}
	begun := after.Begun - before.Begun
	if known := generated - min(begun, generated); r.testCase.fresh() && known > generated/100 {
		return fmt.Errorf("only %d packets of %d began a flow", begun, generated)
	}
	if !r.testCase.fresh() && begun > generated/100 {
		return fmt.Errorf("%d packets of %d were of unknown flows", begun, generated)
	}
	return nil
}

// verdict is what a load balancer returns for the case's packets: the classic one
// knows no routes.
func (r *rig) verdict(p *program) uint32 {
	if p.name == nameClassic && r.testCase.verdict == verdictRedirect {
		return verdictTX
	}
	return r.testCase.verdict
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
