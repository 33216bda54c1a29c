package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/tools/kernels/plan"
)

func TestCompareReleases(t *testing.T) {
	sorted := []string{
		"6.1.0-9-cloud-amd64", "6.1.0-47-cloud-amd64", "6.1.0-56-cloud-amd64",
		"6.12.9+deb12-cloud-amd64", "6.12.100+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64",
	}
	shuffled := []string{sorted[4], sorted[2], sorted[0], sorted[5], sorted[1], sorted[3]}
	slices.SortFunc(shuffled, compareReleases)
	if !slices.Equal(shuffled, sorted) {
		t.Errorf("sorted: %v", shuffled)
	}
}

func TestModuleName(t *testing.T) {
	for path, want := range map[string]string{
		"kernel/net/ipv4/udp_tunnel.ko":     "udp_tunnel",
		"kernel/drivers/net/veth.ko.xz":     "veth",
		"kernel/net/bridge/br-netfilter.ko": "br_netfilter",
	} {
		if got := moduleName(path); got != want {
			t.Errorf("%s is called %q, want %q", path, got, want)
		}
	}
}

// TestVerdict: only a machine that says of every job, and of all, that they
// passed has passed.
func TestVerdict(t *testing.T) {
	passed := func(job string) plan.Event { return plan.Event{Job: job, Passed: true} }
	two := []plan.Job{{Name: "a"}, {Name: "b"}}
	for _, tt := range []struct {
		name   string
		jobs   []plan.Job
		events []plan.Event
		want   string // part of the error, empty for none
	}{
		{"all", two, []plan.Event{passed("a"), passed("b"), passed("")}, ""},
		{"silence", two, nil, "a: no result\nb: no result\nthe machine ended without its last line"},
		{"one is missing", two, []plan.Event{passed("a"), passed("")}, "b: no result"},
		{"one failed", two, []plan.Event{passed("a"), {Job: "b", Why: "exit status 1"}, {}}, "b: exit status 1"},
		{"no last line", two, []plan.Event{passed("a"), passed("b")}, "without its last line"},
		{"the last line disagrees", two, []plan.Event{passed("a"), passed("b"), {}}, "and not which"},
		{"nothing to do", nil, []plan.Event{passed("")}, "nothing to do"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := newVerdict(tt.jobs)
			for _, e := range tt.events {
				v.note(e)
			}
			err := v.err()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestControlsAreJudged: neither a pass nor another failure will do.
func TestControlsAreJudged(t *testing.T) {
	c := control{name: "panic", says: []string{"panicked", "no result"}}
	for failure, good := range map[error]bool{
		nil:                                  false,
		errors.New("no result"):              false,
		errors.New("panicked: a: no result"): true,
	} {
		if err := c.judge(failure); (err == nil) != good {
			t.Errorf("%v is judged %v", failure, err)
		}
	}
}
