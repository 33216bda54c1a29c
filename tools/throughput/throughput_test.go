package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/tools/bench/measure"
	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// tiny is a suite of one short round of everything.
func tiny(t *testing.T) *suite {
	t.Helper()
	s := &suite{binary: "../../bin/steelyard", flows: []uint64{1, 1000}, forwarders: forwarders(), workloads: workloads(), paths: paths(),
		rounds: 1, webRounds: 1, turn: time.Millisecond, webTurn: time.Second, progress: io.Discard}
	if err := s.preflight(); err != nil {
		t.Fatal(err)
	}
	return s
}

// sound fails if a row is no measurement.
func sound(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		if r.Median <= 0 || r.Min > r.Median || r.Max < r.Median || r.Cores == 0 || r.Unit == "" {
			t.Errorf("no measurement: %+v", r)
		}
	}
}

// Every program gets every case, on one core and on two.
func TestPackets(t *testing.T) {
	t.Parallel()
	s, rep := tiny(t), &report{}
	if err := s.measurePackets(rep); err != nil {
		t.Fatal(err)
	}
	sound(t, rep.Packets)
	for _, cores := range []int{1, 2} {
		for _, name := range []string{packetsOneFlow, "packets, 1000 flows"} {
			for _, p := range s.forwarders {
				if rep.find(name, p.name, cores) == nil {
					t.Errorf("%s, %d cores: no figure of %s", name, cores, p.name)
				}
			}
		}
	}
}

// Every path is measured, and the reports have all of it.
func TestWeb(t *testing.T) {
	t.Parallel()
	s := tiny(t)
	s.workloads = s.workloads[:1]
	rep := &report{Machine: measure.ThisMachine(0)}
	if err := s.measureWeb(t.Context(), rep); err != nil {
		t.Fatal(err)
	}
	sound(t, rep.Web)
	dir := t.TempDir()
	file, page := filepath.Join(dir, "t.json"), filepath.Join(dir, "t.md")
	var out bytes.Buffer
	for _, err := range []error{rep.save(file), rep.savePage(page), rep.print(&out)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var results []result
	if err := json.Unmarshal(read(t, file), &results); err != nil {
		t.Fatal(err)
	}
	if want := 3 * len(s.paths); len(results) != want {
		t.Errorf("%d results, want %d", len(results), want)
	}
	for _, p := range s.paths {
		if !bytes.Contains(read(t, page), []byte("| keep-alive | "+p.name+" |")) || !strings.Contains(out.String(), p.name) {
			t.Errorf("path %q is not in the tables", p.name)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The other workloads run, and what goes another way than it should, or is not answered
// well, yields no figure.
func TestWrongPathFails(t *testing.T) {
	t.Parallel()
	s := tiny(t)
	site, err := newSite(t.Context(), s.binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := site.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		name string
		path path
		load workload
		want string
	}{
		{"new connections", path{noBalancer, openDirect, true}, s.workloads[1], ""},
		{"large answers", path{noBalancer, openDirect, true}, s.workloads[2], ""},
		{"past the balancer", path{noBalancer, openDirect, false}, s.workloads[0], "the balancer saw"},
		{"through a balancer", path{oneHopMore, openHop, true}, s.workloads[0], "should not go there"},
		{"no page", path{noBalancer, openDirect, true}, workload{name: "missing", path: "/missing"}, "failed"},
	} {
		s.workloads = []workload{test.load}
		told := false
		err := s.runPath(t.Context(), site, &test.path, func(*workload, *answers) { told = true })
		if text := fmt.Sprint(err); told != (test.want == "") || test.want == "" && err != nil || !strings.Contains(text, test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// Resets of servers' kernels excuse as many new connections that were cut, if they are few.
func TestCutConnections(t *testing.T) {
	for _, test := range []struct {
		afresh                bool
		cut, requests, resets uint64
		want                  string
	}{
		{false, 0, 25_000, 0, ""},
		{true, 0, 25_000, 0, ""},
		{true, 1, 25_000, 1, ""},
		{true, 1, 2_500, 1, ""},
		{true, 2, 25_000, 3, ""},
		{true, 1, 25_000, 0, "sent 0 resets"},
		{true, 3, 25_000, 3, "at most 2"},
		{false, 1, 25_000, 1, "at most 0"},
	} {
		w, a := &workload{afresh: test.afresh}, &answers{Requests: test.requests, Cut: test.cut}
		if err := w.checkCut(a, test.resets); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// Frames that do not go through the program under test, or do not come back, yield no figure.
func TestWrongPacketsFail(t *testing.T) {
	t.Parallel()
	cpus, err := measure.CPUs()
	if err != nil {
		t.Fatal(err)
	}
	space, err := newSpace(len(cpus))
	if err != nil {
		t.Fatal(err)
	}
	defer space.close()
	all := forwarders()
	programs, err := loadForwarders([]forwarder{all[0], all[1], all[3]}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	measured := func(change func(*subject.Case), p loaded) error {
		c := p.Case
		change(&c)
		w, err := newWire(space, c, 1000, cpus[:1])
		if err != nil {
			t.Fatal(err)
		}
		defer w.close()
		if err := w.warm(&p); err != nil {
			t.Fatal(err)
		}
		_, err = w.measure(&p, time.Millisecond)
		return err
	}
	for _, p := range programs {
		if err := measured(func(*subject.Case) {}, p); err != nil {
			t.Errorf("%s: the set-up itself fails: %v", p.name, err)
		}
		if p.subject == nil {
			continue
		}
		defer p.subject.Close()
		if err := measured(func(c *subject.Case) { c.Packets = subject.Foreign }, p); err == nil {
			t.Errorf("%s: that no frame is for the VIP was not noticed", p.name)
		}
		p.program = nil
		if err := measured(func(*subject.Case) {}, p); err == nil {
			t.Errorf("%s: that another program sent the frames back was not noticed", p.name)
		}
	}
}

func TestFlowsAreShared(t *testing.T) {
	for _, flows := range []uint64{2, 3, 1000} {
		if share := flowsOf(flows, 2); share[0]+share[1] != flows || share[1] == 0 {
			t.Errorf("%d flows are shared as %v", flows, share)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"more"}, {"-nothing"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	err := run(t.Context(), []string{"-steelyard", "/nonexistent"}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("a missing program: %v", err)
	}
}
