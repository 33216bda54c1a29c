package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/steelyard-lb/steelyard/test/lab"
)

// requests are sent to each service for each table.
const requests = 600

// demo tells the whole story and takes the lab down, however it ends.
func demo(ctx context.Context, w *world, _ []string) (err error) {
	fmt.Fprintln(w.out, `Steelyard balances connections over servers, in the kernel, before Linux sees the
packets. This demonstration runs the real thing, with real clients and servers, in
network namespaces of this machine. It changes nothing outside of them and removes
them at the end; Ctrl-C ends it at any time.`)
	s, err := newStory(ctx, w)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		} else if err != nil && s.daemon != nil {
			fmt.Fprintf(w.err, "\nThe daemon's log ends:\n%s\n", s.daemon.LogTail())
		}
		fmt.Fprintln(w.out, "\nClean up: stop everything, remove the namespaces.")
		err = errors.Join(err, s.lab.Close())
	}()
	for _, part := range []func() error{s.setUp, s.showSpread, s.showFailure, s.showReturn, s.showStatus} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) showSpread() error {
	s.title("Send requests")
	for _, service := range s.topic.services {
		if err := s.run(s.lab.Client, "curl", "-sS", service.url("/")); err != nil {
			return err
		}
	}
	s.say("\n%s", s.topic.seen)
	if err := s.run(s.lab.Client, "curl", "-sS", s.topic.services[0].url("/client")); err != nil {
		return err
	}
	s.say("\nNow many, each over a connection of its own. The requests follow the slots: a\nbackend's share of the table that every new connection is looked up in.")
	return s.tables()
}

func (s *story) showFailure() error {
	victim := s.lab.Backends[len(s.lab.Backends)-1]
	s.title("Stop the web server of %s", victim.Name)
	s.show(victim, "kill", fmt.Sprint(s.servers[victim].PID()))
	if err := s.servers[victim].Stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := s.waitHealth(victim, "down"); err != nil {
		return err
	}
	s.say("Steelyard noticed after %v; %s has no slots any more:", time.Since(began).Round(10*time.Millisecond), victim.Name)
	if err := s.steelyard("pool", "show", s.topic.services[0].pool); err != nil {
		return err
	}
	s.say("\nAll traffic goes to the others, and every request is answered:")
	return s.tables(victim)
}

func (s *story) showReturn() error {
	victim := s.lab.Backends[len(s.lab.Backends)-1]
	s.title("Start the web server of %s again", victim.Name)
	if err := s.startServer(victim); err != nil {
		return err
	}
	if err := s.waitHealth(victim, "up"); err != nil {
		return err
	}
	s.say("The checks pass again, and it gets its share back:")
	return s.tables()
}

func (s *story) showStatus() error {
	s.title("Ask Steelyard how it is")
	return s.steelyard("status")
}

// tables sends requests to each service and prints who answered beside who was
// to. It fails if a request does, or if a backend is in the wrong table.
func (s *story) tables(without ...*lab.Host) error {
	for _, service := range s.topic.services {
		if err := s.table(service, without); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) table(service service, without []*lab.Host) error {
	p, err := s.pool(service.pool)
	if err != nil {
		return err
	}
	slots, all := map[*lab.Host]int{}, 0
	for _, b := range s.lab.Backends {
		for _, is := range p.Backends {
			if is.Address == service.backend(b) {
				slots[b] = is.Slots
				all += is.Slots
			}
		}
	}
	answers := s.lab.Client.Fetch(s.ctx, service.url("/"), requests, 16)
	s.say("\n%d requests to %s (%s)\n%-10s %8s %8s   %8s", requests, service.url("/"), service.mode, "backend", "answers", "", "slots")
	for _, b := range s.lab.Backends {
		count := answers.Bodies[b.Name]
		s.say("%-10s %8d %6.1f %%   %6.1f %%   %s", b.Name, count, percent(count, requests), percent(slots[b], all), bar(count))
		expected := true
		for _, out := range without {
			expected = expected && out != b
		}
		if (count > 0) != expected {
			return fmt.Errorf("%s answered %d of %d requests to %s", b.Name, count, requests, service.url("/"))
		}
	}
	if answers.Failed() > 0 {
		return fmt.Errorf("%d of %d requests to %s failed: %v", answers.Failed(), requests, service.url("/"), answers.Failures)
	}
	return nil
}

func percent(part, whole int) float64 { return 100 * float64(part) / float64(max(1, whole)) }

// bar draws a share of the requests, 40 characters for all of them.
func bar(count int) string { return strings.Repeat("▇", count*40/requests) }
