package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
)

func mustPlay(t *testing.T, w workload, idle time.Duration) map[string]result {
	t.Helper()
	results, err := play(w, idle)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]result{}
	for _, r := range results {
		byName[r.scheme] = r
	}
	return byName
}

// small is a workload's beginning with smaller tables, which take less time to build.
func small(w workload) workload {
	const part = 5
	w.slots = 6551
	w.length /= part
	w.connections /= part
	return w
}

// Whatever happens to backends and balancers, flux with synchronised tables breaks
// nothing, and tracks less than a table per balancer; the same workload breaks
// connections under every other scheme.
func TestLiterature(t *testing.T) {
	got := mustPlay(t, small(literature(0.1, 1)), time.Minute)
	for _, name := range []string{"stateless", "table-per-balancer", "flux-own-table"} {
		if got[name].broken == 0 {
			t.Errorf("%s broke nothing", name)
		}
	}
	if n := got["flux-synchronised"].broken; n != 0 {
		t.Errorf("flux-synchronised broke %d", n)
	}
	if a, b := got["flux-synchronised"].trackedPeak, got["table-per-balancer"].trackedPeak; a == 0 || a >= b {
		t.Errorf("flux-synchronised tracked %d, table-per-balancer %d", a, b)
	}
	if n := got["stateless"].trackedPeak; n != 0 {
		t.Errorf("stateless tracked %d", n)
	}
}

// With a promise of less than connections need, slots settle too early. Were that
// not to break any, the zero above would say nothing.
func TestShortIdleTimeBreaks(t *testing.T) {
	if got := mustPlay(t, small(literature(0.1, 1)), time.Second); got["flux-synchronised"].broken == 0 {
		t.Error("nothing broke")
	}
}

// Who breaks what under which churn of the design.
func TestDesign(t *testing.T) {
	all := map[string]bool{"stateless": true, "table-per-balancer": true, "flux-own-table": true}
	for _, w := range design(1, 1) {
		breaks := map[string]bool{"stateless": true}
		switch w.churn {
		case "balancers-come-and-go":
			breaks = nil
		case "balancers-and-backends":
			breaks = all
		}
		for name, r := range mustPlay(t, small(w), time.Minute) {
			if r.broken > 0 != breaks[name] {
				t.Errorf("%s: %s broke %d", w.churn, name, r.broken)
			}
		}
	}
}

func TestLife(t *testing.T) {
	const draws = 100_000
	random := rand.New(rand.NewPCG(1, 1))
	short, long := 0, 0
	for range draws {
		switch d := life(random); {
		case d <= 0 || d > longestLife:
			t.Fatalf("a connection lives %v", d)
		case d < 10*time.Second:
			short++
		case d > 5*time.Minute:
			long++
		}
	}
	if short < draws*89/100 || short > draws*91/100 || long < draws/200 {
		t.Errorf("of %d connections %d live less than 10 s, %d more than 5 min", draws, short, long)
	}
}

func TestReport(t *testing.T) {
	output := func(w workload) string {
		var out bytes.Buffer
		if err := report(&out, small(w), time.Minute); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	line := regexp.MustCompile(`^scheme=(stateless|table-per-balancer|flux-own-table|flux-synchronised)` +
		` connections=9400 broken=\d+ tracked_peak=\d+$`)
	first := output(literature(0.01, 1))
	lines := strings.Split(strings.TrimSuffix(first, "\n"), "\n")
	if len(lines) != 4 {
		t.Errorf("%d lines, want 4:\n%s", len(lines), first)
	}
	for _, l := range lines {
		if !line.MatchString(l) {
			t.Errorf("line %q", l)
		}
	}
	if again := output(literature(0.01, 1)); again != first {
		t.Errorf("the second time it reports\n%safter\n%s", again, first)
	}
	if other := output(literature(0.01, 2)); other == first {
		t.Error("another seed gives the same")
	}
	if churn := output(design(0.01, 1)[0]); strings.Count(churn, "churn=backends-added scheme=") != 4 {
		t.Errorf("one churn of the design is reported as\n%s", churn)
	}
}

func TestBadUse(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"whole", `"whole" is no flag`},
		{"-size 1", "see -help"},
		{"-scale 0", "want above 0"},
		{"-scale 1.5", "at most 1"},
		{"-scale NaN", "want above 0"},
		{"-idle 1s", "silent for up to 15s"},
		{"-workload real", `no workload "real"`},
	} {
		err := run(io.Discard, io.Discard, strings.Fields(test.args))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.args, err, test.want)
		}
	}
}
