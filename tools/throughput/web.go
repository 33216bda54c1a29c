package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
	"github.com/steelyard-lb/steelyard/tools/bench/measure"
)

const (
	// patience is how long a path may take until it is open.
	patience = 15 * time.Second
	// probes are requests that show whether all web servers are asked.
	probes = 64
	// mostCut is one new connection in how many may be cut in a turn by the kernel that serves
	// it, and one in any turn.
	// The end of a handshake and the request may come in on two CPUs at once, as packets between
	// namespaces are received where they are sent. The kernel looks connections up without a lock:
	// while the one packet makes a socket of what the handshake began, the other may find neither
	// of the two, and be answered with a reset. It happens with and without a balancer.
	mostCut = 10_000
)

// series are the samples of one figure, by path.
type series map[string][]float64

// measureWeb lets all paths take turns, in one lab.
func (s *suite) measureWeb(ctx context.Context, rep *report) (err error) {
	site, err := newSite(ctx, s.binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	rates, p50, p99 := map[string]series{}, map[string]series{}, map[string]series{}
	for _, w := range s.workloads {
		rates[w.name], p50[w.name], p99[w.name] = series{}, series{}, series{}
	}
	for round := range s.webRounds {
		for _, p := range s.paths {
			fmt.Fprintf(s.progress, "http: round %d of %d, %s\n", 1+round, s.webRounds, p.name)
			err := s.runPath(ctx, site, &p, func(w *workload, a *answers) {
				rates[w.name][p.name] = append(rates[w.name][p.name], w.perSecond(a))
				p50[w.name][p.name] = append(p50[w.name][p.name], a.P50)
				p99[w.name][p.name] = append(p99[w.name][p.name], a.P99)
			})
			if err != nil {
				return fmt.Errorf("path %q: %w", p.name, err)
			}
		}
	}
	for _, w := range s.workloads {
		s.addRows(rep, w.name, w.unit, rates[w.name])
		if w.latency {
			s.addRows(rep, w.name+", latency p50", unitMicroseconds, p50[w.name])
			s.addRows(rep, w.name+", latency p99", unitMicroseconds, p99[w.name])
		}
	}
	return nil
}

func (s *suite) addRows(rep *report, name, unit string, samples series) {
	for _, p := range s.paths {
		rep.Web = append(rep.Web, row{Case: name, Program: p.name, Cores: rep.Machine.CPUs, Unit: unit,
			Spread: measure.NewSpread(samples[p.name])})
	}
}

// runPath opens a path, has all workloads run on it, and closes it.
func (s *suite) runPath(ctx context.Context, site *site, p *path, tell func(*workload, *answers)) (err error) {
	w, err := p.open(ctx, site)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.probe(ctx, site); err != nil {
		return err
	}
	for i := range s.workloads {
		load := &s.workloads[i]
		before, err := w.count(site)
		if err != nil {
			return err
		}
		a, err := load.ask(site.Client, w.targets, s.webTurn)
		if err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		after, err := w.count(site)
		if err != nil {
			return err
		}
		passed, resets := after.passed-before.passed, after.resets-before.resets
		if a.Cut > 0 {
			fmt.Fprintf(s.progress, "%s, %s: %d connections of %d were cut; servers sent %d resets\n", p.name, load.name, a.Cut, a.Requests, resets)
		}
		if err := errors.Join(p.check(a, passed), load.checkCut(a, resets)); err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
		tell(load, a)
	}
	return nil
}

// counts are those of a way before or after a turn.
type counts struct{ passed, resets uint64 }

func (w *way) count(s *site) (c counts, err error) {
	if c.passed, err = w.passed(); err != nil {
		return c, err
	}
	c.resets, err = s.resets()
	return c, err
}

// probe waits until the way is open, and fails if it does not lead to every web server.
func (w *way) probe(ctx context.Context, s *site) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lab.WaitFor(ctx, "all web servers answer", func() error {
		seen := map[string]bool{}
		for _, target := range w.targets {
			got := s.Client.Fetch(ctx, "http://"+target.String()+"/", probes, 4)
			if got.Failed() > 0 {
				return fmt.Errorf("%d of %d requests failed: %v", got.Failed(), probes, got.Failures)
			}
			for body := range got.Bodies {
				seen[body] = true
			}
		}
		if len(seen) != len(s.Backends) {
			return fmt.Errorf("%d web servers answered of %d", len(seen), len(s.Backends))
		}
		return nil
	})
}

// check fails if the packets did not go through the balancer, or if they did and should not.
func (p *path) check(a *answers, passed uint64) error {
	switch {
	case !p.direct && passed < a.Requests:
		return fmt.Errorf("%d requests were answered, but the balancer saw %d packets", a.Requests, passed)
	case p.direct && passed > a.Requests/10:
		return fmt.Errorf("the balancer saw %d packets of %d requests that should not go there", passed, a.Requests)
	}
	return nil
}

// checkCut fails if more connections were cut than servers sent resets, or too many, or any
// that was not new.
func (w *workload) checkCut(a *answers, resets uint64) error {
	var most uint64
	if w.afresh {
		most = max(1, a.Requests/mostCut)
	}
	switch {
	case a.Cut > resets:
		return fmt.Errorf("%d connections were cut, but servers sent %d resets", a.Cut, resets)
	case a.Cut > most:
		return fmt.Errorf("%d connections were cut, want at most %d", a.Cut, most)
	}
	return nil
}
