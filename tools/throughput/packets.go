package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/tools/bench/measure"
	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// sendsBack names the program that does nothing but send frames back.
const sendsBack = "xdp_tx"

// forwarder is a program that frames go through.
type forwarder struct {
	name string
	subject.Case
	// load makes the program; nil: it only sends back.
	load func(subject.Case, uint64) (subject.Subject, error)
}

// forwarders take turns in each round.
func forwarders() []forwarder {
	settled := subject.Case{Protocol: model.TCP, Mode: model.ModeDSRIPIP, VIPs: 1, Tracking: model.TrackingFlux,
		Affinity: model.DefaultAffinity(), Reason: "tx_forwarded", Link: endBalancer}
	l2, flux, always := settled, settled, settled
	l2.Mode = model.ModeDSRL2
	flux.InFlux = true
	always.Tracking = model.TrackingAlways
	return []forwarder{
		{sendsBack, settled, nil},
		{"classic", settled, subject.NewClassic},
		{"steelyard dsr-l2", l2, subject.NewSteelyard},
		{"steelyard dsr-ipip", settled, subject.NewSteelyard},
		{"steelyard dsr-ipip in flux", flux, subject.NewSteelyard},
		{"steelyard dsr-ipip tracking always", always, subject.NewSteelyard},
	}
}

// loaded is a forwarder in the kernel.
type loaded struct {
	*forwarder
	program *ebpf.Program
	// subject counts for itself; nil: it only sends back.
	subject subject.Subject
}

// measurePackets measures all forwarders with each number of flows and of cores.
func (s *suite) measurePackets(rep *report) (err error) {
	cpus, err := measure.CPUs()
	if err != nil {
		return err
	}
	space, err := newSpace(len(cpus))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, space.close()) }()
	most := s.flows[len(s.flows)-1]
	programs, err := loadForwarders(s.forwarders, most)
	defer func() {
		for _, p := range programs {
			if p.subject != nil {
				err = errors.Join(err, p.subject.Close())
			}
		}
	}()
	if err != nil {
		return err
	}
	for _, cores := range []int{1, 2} {
		if cores > len(cpus) {
			return fmt.Errorf("%d CPU to run on; two are needed for the figures of two cores", len(cpus))
		}
		for _, flows := range s.flows {
			fmt.Fprintf(s.progress, "packets: %d flows, %d cores\n", flows, cores)
			if err := s.measureFlows(rep, space, programs, flows, cpus[len(cpus)-cores:]); err != nil {
				return fmt.Errorf("%d flows, %d cores: %w", flows, cores, err)
			}
		}
	}
	return nil
}

func loadForwarders(all []forwarder, flows uint64) ([]loaded, error) {
	var programs []loaded
	for i := range all {
		p := loaded{forwarder: &all[i]}
		if p.load != nil {
			var err error
			if p.subject, err = p.load(p.Case, flows); err != nil {
				return programs, fmt.Errorf("program %s: %w", p.name, err)
			}
			p.program = p.subject.Program()
		}
		programs = append(programs, p)
	}
	return programs, nil
}

// measureFlows lets the forwarders take turns with one number of flows. Each core has flows
// of its own, at least one: so does a NIC deal them out.
func (s *suite) measureFlows(rep *report, space *space, programs []loaded, flows uint64, cpus []int) (err error) {
	flows = max(flows, uint64(len(cpus)))
	w, err := newWire(space, programs[0].Case, flows, cpus)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	samples, losses := map[string][]float64{}, map[string]float64{}
	for i := range programs {
		if err := w.warm(&programs[i]); err != nil {
			return fmt.Errorf("program %s: %w", programs[i].name, err)
		}
	}
	for range s.rounds {
		for i := range programs {
			p := &programs[i]
			t, err := w.measure(p, s.turn)
			if err != nil {
				return fmt.Errorf("program %s: %w", p.name, err)
			}
			samples[p.name] = append(samples[p.name], t.rate())
			losses[p.name] = max(losses[p.name], t.loss())
		}
	}
	name := fmt.Sprintf("packets, %d flows", flows)
	if slices.Max(flowsOf(flows, len(cpus))) == 1 {
		name = packetsOneFlow
	}
	for i := range programs {
		p := programs[i].name
		rep.Packets = append(rep.Packets, row{Case: name, Program: p, Cores: len(cpus), Unit: unitPackets,
			Spread: measure.NewSpread(samples[p]), Lost: losses[p]})
	}
	return nil
}

// packetsOneFlow is the case of one flow for each core.
const packetsOneFlow = "packets, 1 flow"

// flowsOf shares out flows among cores: each core's number.
func flowsOf(flows uint64, cores int) []uint64 {
	share := make([]uint64, cores)
	for i := range share {
		share[i] = (flows + uint64(cores-1-i)) / uint64(cores)
	}
	return share
}
