package dataplane

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// What the environment may say of the fuzzer: how many packets, from which seed,
// or which single one.
const (
	fuzzRunsVariable = "STEELYARD_FUZZ_RUNS"
	fuzzSeedVariable = "STEELYARD_FUZZ_SEED"
	fuzzCaseVariable = "STEELYARD_FUZZ_CASE"

	defaultFuzzRuns = 150_000
	defaultFuzzSeed = 1
)

// fuzzChunk is after how many packets all counters are compared.
const fuzzChunk = 2000

// TestFuzz sends random and mutated packets through the program and holds what
// comes out against an oracle. make fuzz does it with many.
func TestFuzz(t *testing.T) {
	t.Parallel()
	seed, runs := fromEnvironment(t, fuzzSeedVariable, defaultFuzzSeed), fromEnvironment(t, fuzzRunsVariable, defaultFuzzRuns)
	first, labs := uint64(0), uint64(len(fuzzOptions()))
	if os.Getenv(fuzzCaseVariable) != "" {
		first, runs = fromEnvironment(t, fuzzCaseVariable, 0), 1
	}
	t.Logf("%d runs; again with %s=%d", runs, fuzzSeedVariable, seed)
	begun := time.Now()
	reached := map[string]uint64{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, options := range fuzzOptions() {
		l := newFuzzLab(t, options)
		// A trial is always the same lab's.
		from := first + (uint64(i)+labs-first%labs)%labs
		all.Go(func() {
			err := l.do(func() error { return l.fuzz(newMutator(l, seed), from, first+runs, labs) })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("%s=%d, options %d: %v", fuzzSeedVariable, seed, i, err)
			}
			for reason, n := range l.tally.reasons {
				reached[reason] += n
			}
		})
	}
	all.Wait()
	t.Logf("%.0f runs a second", float64(runs)/time.Since(begun).Seconds())
	report(t, reached, runs)
}

// report wants a long run to have ended in every way that there is.
func report(t *testing.T, reached map[string]uint64, runs uint64) {
	for reason := range rules() {
		t.Logf("%10d %s", reached[reason], reason)
		if reached[reason] == 0 && runs >= defaultFuzzRuns && reason != "drop_internal" {
			t.Errorf("no packet ended as %s: seeds or mutations are missing", reason)
		}
	}
}

func fromEnvironment(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// fuzz runs every stepth trial from first to before end. It stops at the first
// that fails, which it makes as small as it can.
func (l *fuzzLab) fuzz(m *mutator, first, end, step uint64) error {
	begin, ran := first, 0
	for n := first; n < end; n += step {
		t := m.trial(n)
		if err := l.pursue(t); err != nil {
			return l.failure(t, err)
		}
		if ran++; ran%fuzzChunk == 0 || n+step >= end {
			if err := l.checkCounts(); err != nil {
				return l.miscounted(m, begin, n, step, err)
			}
			begin = n + step
			// So that flows idle out.
			l.now++
			l.SetClock(l.now)
		}
	}
	return nil
}

func (l *fuzzLab) failure(t trial, err error) error {
	small := shrink(t, func(t trial) bool { return l.pursue(t) != nil })
	if again := l.pursue(small); again != nil {
		return fmt.Errorf("%w\n%v\nas little as this fails too: %w\n%v", err, t, again, small)
	}
	return fmt.Errorf("%w\n%v\nrun again, it passes: what came before matters", err, t)
}

// miscounted finds the trial of a range that the counters disagree about.
func (l *fuzzLab) miscounted(m *mutator, first, last, step uint64, err error) error {
	for n := first; n <= last; n += step {
		if readErr := l.begin(); readErr != nil {
			return errors.Join(err, readErr)
		}
		t := m.trial(n)
		if tryErr := l.pursue(t); tryErr != nil {
			return l.failure(t, tryErr)
		}
		if wrong := l.checkCounts(); wrong != nil {
			return fmt.Errorf("%w\n%v", wrong, t)
		}
	}
	return fmt.Errorf("cases %d to %d together, none of them alone: %w", first, last, err)
}

// shrink makes a failing trial smaller as long as it fails: without what is
// special, with less of a frame, with zeroes in it.
func shrink(t trial, fails func(trial) bool) trial {
	keep := func(smaller trial) bool {
		ok := fails(smaller)
		if ok {
			t = smaller
		}
		return ok
	}
	plain := t
	plain.metadata, plain.ingress, plain.near = 0, loopback, min(len(t.frame), firstBuffer)
	keep(plain)
	for size := len(t.frame) / 2; size > 0; size /= 2 {
		for len(t.frame)-size >= headerEthernet {
			cut := t
			cut.frame = t.frame[:len(t.frame)-size]
			cut.near = min(t.near, len(cut.frame))
			if !keep(cut) {
				break
			}
		}
	}
	for size := 64; size > 0; size /= 2 {
		for at := 0; at+size <= len(t.frame); at += size {
			blank := t
			blank.frame = slices.Concat(t.frame[:at], make([]byte, size), t.frame[at+size:])
			if !slices.Equal(blank.frame, t.frame) {
				keep(blank)
			}
		}
	}
	return t
}
