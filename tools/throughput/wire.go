package main

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

const (
	// batch is how many frames the kernel makes before it lets them be received: a queue of
	// veth holds 256, and drops what comes on top.
	batch = 64
	// chunk is how many frames one call makes.
	chunk = 50 * 1024
	// settle is how long the last frames of a turn may be on their way.
	settle = time.Second
)

// wire sends frames round: from a generator on each CPU through the program under test, and
// back to be counted.
type wire struct {
	space      *space
	cpus       []int
	frame      []byte
	flows      uint64
	generators []*throughputObjects
	// counting and forwarding are the programs on the two ends.
	counting, forwarding link.Link
}

func newWire(s *space, c subject.Case, flows uint64, cpus []int) (_ *wire, err error) {
	w := &wire{space: s, cpus: cpus, frame: c.Frame(), flows: flows}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	for range cpus {
		spec, err := loadThroughput()
		if err != nil {
			return nil, err
		}
		if err := c.SetUp(spec); err != nil {
			return nil, err
		}
		g := &throughputObjects{}
		if err := spec.LoadAndAssign(g, nil); err != nil {
			return nil, fmt.Errorf("load the generator: %w", err)
		}
		w.generators = append(w.generators, g)
	}
	attach := func(program *ebpf.Program, end int) (link.Link, error) {
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: end, Flags: link.XDPDriverMode})
		if err != nil {
			return nil, fmt.Errorf("attach to the wire: %w", err)
		}
		return l, nil
	}
	if w.counting, err = attach(w.generators[0].Count, s.generator); err != nil {
		return nil, err
	}
	w.forwarding, err = attach(w.generators[0].SendBack, s.balancer)
	return w, err
}

func (w *wire) close() error {
	var err error
	for _, l := range []link.Link{w.forwarding, w.counting} {
		if l != nil {
			err = errors.Join(err, l.Close())
		}
	}
	for _, g := range w.generators {
		err = errors.Join(err, g.Close())
	}
	return err
}

// put puts a program on the balancer's end.
func (w *wire) put(p *loaded) error {
	program := p.program
	if program == nil {
		program = w.generators[0].SendBack
	}
	if err := w.forwarding.Update(program); err != nil {
		return fmt.Errorf("put the program in place: %w", err)
	}
	return nil
}

// order says in what order each generator goes through its flows: every so many of all
// begins with its own number, and steps over those of the others.
func (w *wire) order(step func(own uint64) uint64) error {
	var errs []error
	cores := uint64(len(w.generators))
	for i, own := range flowsOf(w.flows, len(w.generators)) {
		g := w.generators[i]
		errs = append(errs, g.Flows.Set(own*cores), g.Turn.Set(uint64(i)), g.Stride.Set(cores*step(own)%(own*cores)))
	}
	return errors.Join(errs...)
}

// warm lets a program see every flow once, in another order than the one that is measured:
// what remembers flows must not find them in memory one behind the other.
func (w *wire) warm(p *loaded) error {
	if err := errors.Join(w.put(p), w.order(subject.Shuffle)); err != nil {
		return err
	}
	for i, own := range flowsOf(w.flows, len(w.generators)) {
		if err := w.space.on(w.cpus[i], func() error { return w.send(i, uint32(max(own, batch))) }); err != nil {
			return err
		}
	}
	return w.order(func(own uint64) uint64 { return min(1, own-1) })
}

// send makes at least so many frames, on the calling thread's CPU.
func (w *wire) send(generator int, frames uint32) error {
	context := struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }{
		DataEnd: uint32(len(w.frame)), IngressIfindex: uint32(w.space.generator)}
	_, err := w.generators[generator].Generator.Run(&ebpf.RunOptions{Data: w.frame, Context: context, Repeat: frames,
		Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, BatchSize: batch})
	return err
}

// turn is what became of a program's turn.
type turn struct {
	generated, returned uint64
	took                time.Duration
	tally               subject.Tally
}

// rate is how many frames came back per second.
func (t *turn) rate() float64 { return float64(t.returned) / t.took.Seconds() }

// loss is the share of frames that did not come back.
func (t *turn) loss() float64 { return float64(t.generated-t.returned) / float64(t.generated) }

// measure gives a program a turn, and checks what it counted.
func (w *wire) measure(p *loaded, length time.Duration) (*turn, error) {
	if err := w.put(p); err != nil {
		return nil, err
	}
	before, err := w.counts(p)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := w.sendFor(length); err != nil {
		return nil, err
	}
	took := time.Since(start)
	var t *turn
	for deadline := time.Now().Add(settle); ; {
		after, err := w.counts(p)
		if err != nil {
			return nil, err
		}
		t = &turn{generated: after.generated - before.generated, returned: after.returned - before.returned, took: took,
			tally: subject.Tally{Expected: after.tally.Expected - before.tally.Expected, Others: after.tally.Others - before.tally.Others,
				Begun: after.tally.Begun - before.tally.Begun, Where: after.tally.Where}}
		if t.returned == t.generated || time.Now().After(deadline) {
			break
		}
	}
	return t, t.check(p)
}

// sendFor lets all generators send for at least so long.
func (w *wire) sendFor(length time.Duration) error {
	var sending sync.WaitGroup
	results := make([]error, len(w.cpus))
	for i, cpu := range w.cpus {
		sending.Go(func() {
			results[i] = w.space.on(cpu, func() error {
				for start := time.Now(); time.Since(start) < length; {
					if err := w.send(i, chunk); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	sending.Wait()
	return errors.Join(results...)
}

// seen is how many frames came back, or were sent on.
func (o *throughputObjects) seen() (n uint64, err error) {
	var perCPU []uint64
	if err := o.Seen.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("frames counted: %w", err)
	}
	for _, one := range perCPU {
		n += one
	}
	return n, nil
}

// counts are all counters so far.
func (w *wire) counts(p *loaded) (t turn, err error) {
	for _, g := range w.generators {
		var n uint64
		if err := g.Generated.Get(&n); err != nil {
			return t, err
		}
		t.generated += n
	}
	if t.returned, err = w.generators[0].seen(); err != nil {
		return t, err
	}
	if p.subject != nil {
		t.tally, err = p.subject.Tally()
	}
	return t, err
}

// mostLost is the share of frames that a turn may lose.
const mostLost = 0.01

// check fails if the program under test is not what sent the frames back, or lost many.
func (t *turn) check(p *loaded) error {
	switch {
	case t.returned == 0:
		return errors.New("no frame came back")
	case t.returned > t.generated:
		return fmt.Errorf("%d frames came back of %d", t.returned, t.generated)
	case t.loss() > mostLost:
		return fmt.Errorf("%d frames of %d came back", t.returned, t.generated)
	case p.subject == nil:
		return nil
	case t.tally.Others > 0:
		return fmt.Errorf("%d packets fared otherwise than they should; all that did so far: %s", t.tally.Others, strings.Join(t.tally.Where, ", "))
	case t.tally.Expected < t.returned || t.tally.Expected > t.generated:
		return fmt.Errorf("the program counted %d packets; %d were sent and %d came back", t.tally.Expected, t.generated, t.returned)
	case t.tally.Begun > t.generated/100:
		return fmt.Errorf("%d packets of %d were of unknown flows", t.tally.Begun, t.generated)
	}
	return nil
}
