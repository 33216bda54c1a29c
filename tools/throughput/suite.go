package main

import (
	"context"
	"io"
	"time"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

// suite is what is measured, and how thoroughly.
type suite struct {
	// binary is the steelyard that balances HTTP.
	binary string
	// flows are the numbers of flows of packets, in ascending order.
	flows      []uint64
	forwarders []forwarder
	workloads  []workload
	paths      []path
	// rounds in which every program takes a turn of so long; those of HTTP are others.
	rounds, webRounds int
	turn, webTurn     time.Duration
	// progress is told what is next.
	progress io.Writer
}

// run measures everything. A namespace that it enters ends with the goroutine.
func (s *suite) run(ctx context.Context) (*report, error) {
	rep := &report{Machine: measure.ThisMachine(-1), Rounds: s.rounds, Turn: s.turn, WebRounds: s.webRounds, WebTurn: s.webTurn,
		Batch: batch, Connections: connections}
	if err := s.measureWeb(ctx, rep); err != nil {
		return nil, err
	}
	packets := make(chan error)
	go func() { packets <- s.measurePackets(rep) }()
	return rep, <-packets
}
