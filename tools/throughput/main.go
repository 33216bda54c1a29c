package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

type suite struct {
	flows      []uint64
	rounds     int
	turn       time.Duration
	forwarders []forwarder
	progress   io.Writer
}
type row struct {
	Case, Program string
	Cores         int
	Unit          string
	measure.Spread
	Lost float64
}
type report struct{ Packets []row }

const unitPackets = "packets/s"

func main() {
	s := suite{[]uint64{1, 100000, 1000000}, 3, 400 * time.Millisecond, forwarders(), os.Stderr}
	r := &report{}
	if err := s.measurePackets(r); err != nil {
		fmt.Println(err)
	}
	for _, p := range r.Packets {
		fmt.Printf("%-25s %-40s %d %.0f %.0f-%.0f %.2g\n", p.Case, p.Program, p.Cores, p.Median, p.Min, p.Max, p.Lost)
	}
}
