package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/tools/bench/execution"
	"github.com/steelyard-lb/steelyard/tools/bench/measure"
	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

func newTestRig(t *testing.T, c testCase, flows uint64) *rig {
	t.Helper()
	if err := enterSpace(); err != nil {
		t.Fatal(err)
	}
	r, err := newRig(c, programs(), flows)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.setFlows(flows); err != nil {
		t.Fatal(err)
	}
	return r
}

func caseNamed(t *testing.T, name string) testCase {
	t.Helper()
	for _, c := range cases() {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("no case %q", name)
	return testCase{}
}

func programNamed(t *testing.T, name string) *program {
	t.Helper()
	for _, p := range programs() {
		if p.name == name {
			return &p
		}
	}
	t.Fatalf("no program %q", name)
	return nil
}

// Every case runs as it says, and the reports have a figure for each program.
func TestEveryCase(t *testing.T) {
	dir := t.TempDir()
	file, page, plot := filepath.Join(dir, "p.json"), filepath.Join(dir, "p.md"), filepath.Join(dir, "p.svg")
	var out bytes.Buffer
	args := []string{"-quick", "-rounds", "1", "-packets", "2000", "-flows", "1,1000", "-json", file, "-page", page}
	if err := run(args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var results []result
	if err := json.Unmarshal(read(t, file), &results); err != nil {
		t.Fatal(err)
	}
	measured := map[string]int{}
	for _, r := range results {
		if r.Flows == 0 || r.Median <= 0 || r.Minimum > r.Median || r.Maximum < r.Median {
			t.Errorf("no measurement: %+v", r)
		}
		measured[r.Case+"/"+r.Program]++
	}
	markdown := string(read(t, page))
	for _, c := range cases() {
		if !strings.Contains(out.String(), c.name) || !strings.Contains(markdown, "| "+c.name+" |") {
			t.Errorf("case %q is not in the tables:\n%s\n%s", c.name, out.String(), markdown)
		}
		for _, p := range programs() {
			want := 2
			if c.fresh() {
				want = 1
			}
			if p.name == nameFloor && c.floor == nil || p.name == nameClassic && c.alone {
				want = 0
			}
			if got := measured[c.name+"/"+p.name]; got != want {
				t.Errorf("case %q, program %s: %d measurements, want %d", c.name, p.name, got, want)
			}
		}
	}
	var svg struct {
		Path []struct{} `xml:"path"`
	}
	if err := xml.Unmarshal(read(t, plot), &svg); err != nil || len(svg.Path) < 10 {
		t.Errorf("plot: %d paths, error %v", len(svg.Path), err)
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

// Packets that fare otherwise than the case says must not yield a figure.
func TestWrongSetUpFails(t *testing.T) {
	change := func(name string, f func(*testCase)) testCase {
		c := caseNamed(t, name)
		f(&c)
		return c
	}
	for _, w := range []struct {
		fault   string
		c       testCase
		classic bool
	}{
		{"to no VIP", change("tcp4 dsr-ipip", func(c *testCase) { c.Packets = subject.Foreign }), true},
		{"to a VIP", change("tcp4 not ours", func(c *testCase) { c.Packets = subject.Requests }), true},
		{"known, not warmed", caseNamed(t, "tcp4 dsr-ipip tracking always"), true},
		{"new, and not remembered", change("tcp4 dsr-ipip new flows", func(c *testCase) { c.Tracking = model.TrackingFlux }), false},
		{"without connection", caseNamed(t, "tcp4 fullnat"), false},
	} {
		t.Run(w.fault, func(t *testing.T) {
			r := newTestRig(t, w.c, 1000)
			if _, err := r.measure(programNamed(t, nameSteelyard), 100); err == nil {
				t.Error("nothing was noticed")
			}
			if _, err := r.measure(programNamed(t, nameClassic), 100); w.classic && err == nil {
				t.Error("nothing was noticed of the classic program")
			}
			if _, err := r.measure(programNamed(t, nameTail), 100); err != nil {
				t.Errorf("the set-up itself fails: %v", err)
			}
		})
	}
}

// output runs a program that many times and returns the frame that the last run left.
func output(t *testing.T, r *rig, p *program, times uint32) []byte {
	t.Helper()
	if err := r.put(p); err != nil {
		t.Fatal(err)
	}
	want := uint32(verdictTX)
	if p.measured() {
		want = r.verdict(p)
	}
	options := &ebpf.RunOptions{Data: r.frame, DataOut: make([]byte, 256), Repeat: times}
	if verdict, err := p.entry(r).Run(options); err != nil || verdict != want {
		t.Fatalf("verdict %d, want %d, error %v", verdict, want, err)
	}
	return options.DataOut
}

// What a run puts before the frame is off again in the next, and flow 0 is the
// frame that the control side made.
func TestFramesAreRestored(t *testing.T) {
	for name, growth := range map[string]int{"tcp4 dsr-ipip": subject.IPv4Length, "tcp6 dsr-ipip": subject.IPv6Length} {
		r := newTestRig(t, caseNamed(t, name), 3)
		for _, p := range []string{nameFloor, nameSteelyard, nameClassic} {
			if err := r.setFlows(3); err != nil {
				t.Fatal(err)
			}
			once := output(t, r, programNamed(t, p), 1)
			if len(once) != subject.FrameLength+growth {
				t.Errorf("%s, %s: %d bytes, want %d", name, p, len(once), subject.FrameLength+growth)
			}
			// Three flows on, it is the turn of the first again.
			if again := output(t, r, programNamed(t, p), 3); !bytes.Equal(once, again) {
				t.Errorf("%s, %s: run 4 is\n% x, run 1\n% x", name, p, again, once)
			}
		}
	}
}

// Both load balancers use all backends.
func TestBackendsShareFlows(t *testing.T) {
	const outerDestination, flows = subject.EthernetLength + 16, 2000
	r := newTestRig(t, caseNamed(t, "tcp4 dsr-ipip"), flows)
	for _, p := range []string{nameSteelyard, nameClassic} {
		backends := map[string]bool{}
		for range flows {
			backends[string(output(t, r, programNamed(t, p), 1)[outerDestination:][:4])] = true
		}
		if len(backends) != subject.BackendsPerPool {
			t.Errorf("%s: %d backends, want %d", p, len(backends), subject.BackendsPerPool)
		}
	}
}

func TestFlowsDiffer(t *testing.T) {
	const flows = 2000
	for name, source := range map[string][2]int{"tcp4 dsr-ipip": {26, 30}, "tcp6 dsr-ipip": {22, 38},
		"tcp4 dsr-ipip 10000 vips": {26, 30}, "icmp4 error dsr-ipip": {58, 62}, "icmp6 error dsr-ipip": {94, 102}} {
		c := caseNamed(t, name)
		r := newTestRig(t, c, flows)
		sources, destinations := map[string]bool{}, map[string]bool{}
		for i := range flows {
			frame := output(t, r, programNamed(t, nameGenerator), 1)
			if i == 0 && !bytes.Equal(frame, r.frame) {
				t.Errorf("%s: flow 0 is\n% x, want\n% x", name, frame, r.frame)
			}
			length := source[1] - source[0]
			sources[string(frame[source[0]:source[1]])] = true
			destinations[string(frame[source[1]:source[1]+length])] = true
		}
		if len(sources) != flows {
			t.Errorf("%s: %d sources, want %d", name, len(sources), flows)
		}
		if got, most := len(destinations), min(flows, c.VIPs); c.Packets == subject.Requests && (got > most || got < most*3/4) {
			t.Errorf("%s: %d destinations of %d", name, got, most)
		}
	}
}

// ends are the addresses and ports of a frame, and turned round.
func ends(c *testCase, frame []byte) (forth, back string) {
	at, length := subject.EthernetLength+12, 4
	if c.IPv6 {
		at, length = subject.EthernetLength+8, 16
	}
	from, to, ports := frame[at:][:length], frame[at+length:][:length], frame[at+2*length:]
	sprint := func(from, to, source, destination []byte) string {
		return fmt.Sprintf("%x:%x > %x:%x", from, source, to, destination)
	}
	return sprint(from, to, ports[:2], ports[2:4]), sprint(to, from, ports[2:4], ports[:2])
}

// Replies are those to the flows' own packets: what leaves goes to the client that each
// began at, from where that had sent to.
func TestRepliesAreToTheFlows(t *testing.T) {
	const flows = 300
	for _, name := range []string{"tcp4 nat replies", "tcp4 fullnat replies", "tcp6 fullnat replies", "udp4 fullnat replies"} {
		c := caseNamed(t, name)
		r := newTestRig(t, c, flows)
		if err := r.open(flows); err != nil {
			t.Fatal(err)
		}
		requests := make([]string, flows)
		if err := errors.Join(r.generator.Answering.Set(false), r.setFlows(flows)); err != nil {
			t.Fatal(err)
		}
		for i := range requests {
			_, requests[i] = ends(&c, output(t, r, programNamed(t, nameGenerator), 1))
		}
		if err := errors.Join(r.generator.Answering.Set(true), r.setFlows(flows)); err != nil {
			t.Fatal(err)
		}
		for i, want := range requests {
			if got, _ := ends(&c, output(t, r, programNamed(t, nameSteelyard), 1)); got != want {
				t.Fatalf("%s: flow %d is answered by %s, want %s", name, i, got, want)
			}
		}
	}
}

func TestNetTakesOffWhatIsNotMeasured(t *testing.T) {
	r := row{Results: map[string]measure.Spread{nameGenerator: {Median: 40}, nameFloor: {Median: 50}, nameTail: {Median: 41},
		nameSteelyard: {Median: 65}, nameClassic: {Median: 137}}}
	if net, ok := r.net(nameSteelyard); !ok || net != 24 {
		t.Errorf("net %v, want 24", net)
	}
	if over, ok := r.overFloor(nameSteelyard); !ok || over != 14 {
		t.Errorf("over floor %v, want 14", over)
	}
	if ratio, ok := r.ratio(); !ok || ratio != 0.25 {
		t.Errorf("ratio %v, want 0.25", ratio)
	}
	delete(r.Results, nameFloor)
	delete(r.Results, nameClassic)
	if _, ok := r.overFloor(nameSteelyard); ok {
		t.Error("a case without floor has a figure over it")
	}
	if _, ok := r.ratio(); ok {
		t.Error("a case without the classic program has a ratio")
	}
}

// In the other order, all flows have their turn all the same.
func TestShuffleMissesNoFlow(t *testing.T) {
	for _, flows := range []uint64{1, 2, 3, 4, 10, 999, 1000, 100_000} {
		seen, stride := map[uint64]bool{}, subject.Shuffle(flows)
		for at := uint64(0); !seen[at]; at = (at + stride) % flows {
			seen[at] = true
		}
		if uint64(len(seen)) != flows || stride >= flows {
			t.Errorf("%d of %d flows by a stride of %d", len(seen), flows, stride)
		}
	}
}

func TestMedian(t *testing.T) {
	if got, want := measure.NewSpread([]float64{9, 1, 3}), (measure.Spread{Median: 3, Min: 1, Max: 9}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got := measure.NewSpread([]float64{4, 1, 2, 9}).Median; got != 3 {
		t.Errorf("median of an even number: %v, want 3", got)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-cases", "nothing"}, {"-cases", "("}, {"-flows", "0"}, {"-flows", "1,x"}, {"-flows", "17000000"},
		{"-rounds", "0"}, {"-packets", "0"}, {"more"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	s, err := parse([]string{"-quick", "-cases", "^tcp4 (nat|not ours)$", "-rounds", "5"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.cases) != 2 || s.rounds != 5 || s.packets != 100_000 || !slices.Equal(s.cases[1].flows, []uint64{1, 100_000}) {
		t.Errorf("%d cases, %d rounds of %d packets, flows %v", len(s.cases), s.rounds, s.packets, s.cases[1].flows)
	}
}

// What CI checks of the programs that does not depend on the clock.
func TestProgramsAreWithinLimits(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-check"}, &out, io.Discard); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, l := range executedLimits() {
		if caseNamed(t, l.testCase); !strings.Contains(out.String(), " "+l.testCase+" ") {
			t.Errorf("case %q is not checked:\n%s", l.testCase, out.String())
		}
	}
	l := limit{name: "steelyard", verified: 10}
	if l.exceeded("instructions", 10, l.verified) != nil || l.exceeded("instructions", 11, l.verified) == nil {
		t.Error("a limit is not the most that there may be")
	}
}

// A packet that takes another path than its case's is noticed.
func TestMoreExecutedIsNoticed(t *testing.T) {
	if err := enterSpace(); err != nil {
		t.Fatal(err)
	}
	limits := executedLimits()
	l := limits[slices.IndexFunc(limits, func(l executedLimit) bool { return l.testCase == "tcp4 dsr-ipip" })]
	for name, above := range map[string][]string{
		"tcp4 dsr-ipip": nil,
		// The flow table is asked as well.
		"tcp4 dsr-ipip in flux": {"instructions", "look-ups"},
	} {
		all, err := execute(caseNamed(t, name), programs())
		if err != nil {
			t.Fatal(err)
		}
		err = l.exceeded(all[nameSteelyard])
		if (err != nil) != (above != nil) {
			t.Errorf("%s: %v", name, err)
		}
		for _, what := range above {
			if !strings.Contains(fmt.Sprint(err), what) {
				t.Errorf("%s: too many %s are not reported: %v", name, what, err)
			}
		}
	}
}

// What counts changes no packet.
func TestCountingChangesNoPacket(t *testing.T) {
	const flows = 20
	for _, name := range []string{"tcp6 dsr-ipip", "tcp4 fullnat"} {
		plain := caseNamed(t, name)
		counting, counter := plain, execution.NewCounter()
		counting.Rewrite = counter.Rewrite
		var outputs [2][][]byte
		for i, c := range []testCase{plain, counting} {
			r := newTestRig(t, c, flows)
			if err := r.open(flows); err != nil {
				t.Fatal(err)
			}
			for range flows {
				outputs[i] = append(outputs[i], output(t, r, programNamed(t, nameSteelyard), 1))
			}
		}
		if !slices.EqualFunc(outputs[0], outputs[1], bytes.Equal) {
			t.Errorf("%s: packets are\n%x, without counting\n%x", name, outputs[1], outputs[0])
		}
		if got, err := counter.Counts(); err != nil || got.Instructions < 100*flows {
			t.Errorf("%s: nothing is counted: %+v, error %v", name, got, err)
		}
		if err := counter.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The reports say once for each case what its packets execute.
func TestReportsSayWhatIsExecuted(t *testing.T) {
	dir := t.TempDir()
	file, page := filepath.Join(dir, "p.json"), filepath.Join(dir, "p.md")
	var out bytes.Buffer
	args := []string{"-cases", "^tcp4 not ours$", "-rounds", "1", "-packets", "1000", "-flows", "1,10", "-json", file, "-page", page}
	if err := run(args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var results []result
	if err := json.Unmarshal(read(t, file), &results); err != nil {
		t.Fatal(err)
	}
	said := 0
	for _, r := range results {
		if e := r.Executed; e != nil {
			said++
			if r.Flows != 1 || e.Instructions < 20 || e.Lookups < 1 {
				t.Errorf("%+v: %+v", r, *e)
			}
		}
	}
	if said != 2 {
		t.Errorf("%d results say what is executed, want 2", said)
	}
	if !strings.Contains(string(read(t, page)), "| steelyard: instructions |") || !strings.Contains(out.String(), "steelyard: instructions") {
		t.Errorf("no table of what is executed:\n%s\n%s", out.String(), read(t, page))
	}
}

// Labels neither overlap nor leave the axes, and the axes hold all points.
func TestPlot(t *testing.T) {
	p := plot{}
	for _, y := range []float64{3, 3, 4, 310, 5, 311, 0, 0} {
		p.lines = append(p.lines, line{points: []point{{1, y}, {4_000_000, y}}})
	}
	if decades, top := p.most(); decades != 7 || top != 350 {
		t.Errorf("axes to 10^%d and %v, want 10^7 and 350", decades, top)
	}
	at := slices.Sorted(slices.Values(p.labels(func(at point) (x, y float64) { return at.x, plotBottom - at.y })))
	for i, y := range at {
		if y > plotBottom || i > 0 && y-at[i-1] < labelHeight {
			t.Errorf("labels at %v", at)
		}
	}
	for n, want := range map[float64]float64{1: 0.25, 7: 1, 35: 5, 310: 50, 999: 100} {
		if got := stepBelow(n); got != want {
			t.Errorf("step below %v: %v, want %v", n, got, want)
		}
	}
}
