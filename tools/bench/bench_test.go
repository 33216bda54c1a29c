package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

func newTestRig(t *testing.T, c testCase) *rig {
	t.Helper()
	r, err := newRig(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
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

// Every case runs as it says, and the report has a figure for each program.
func TestEveryCase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	args := []string{"-rounds", "1", "-packets", "2000", "-flows", "1,1000", "-json", file}
	if err := run(args, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rep report
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	if want := 2 * len(cases()); len(rep.Rows) != want {
		t.Fatalf("%d rows, want %d", len(rep.Rows), want)
	}
	for _, row := range rep.Rows {
		for _, p := range programs() {
			_, measured := row.Results[p.name]
			without := p.name == nameFloor && strings.Contains(row.Case, "not ours")
			if measured == without {
				t.Errorf("case %q, program %s: measured %v", row.Case, p.name, measured)
			}
		}
		if !strings.Contains(out.String(), row.Case) {
			t.Errorf("case %q is not in the table:\n%s", row.Case, out.String())
		}
	}
	for _, p := range rep.Programs {
		if p.Measured && (p.VerifiedInstructions == 0 || p.MachineCodeBytes == 0) {
			t.Errorf("program %s is not described: %+v", p.Name, p)
		}
	}
}

// Packets that fare otherwise than the case says must not yield a figure.
func TestWrongSetUpFails(t *testing.T) {
	lost := caseNamed(t, "tcp4 dsr-ipip")
	lost.foreign = true
	found := caseNamed(t, "tcp4 not ours")
	found.foreign = false
	for c, reason := range map[*testCase]string{&lost: "pass_not_vip", &found: "tx_forwarded"} {
		r := newTestRig(t, *c)
		if err := r.setFlows(10); err != nil {
			t.Fatal(err)
		}
		if _, err := r.measure(programNamed(t, "steelyard"), 100); err == nil {
			t.Errorf("packets that leave as %s were not noticed", reason)
		}
		if _, err := r.measure(programNamed(t, nameTail), 100); err != nil {
			t.Errorf("the set-up itself fails: %v", err)
		}
	}
}

// output runs a program that many times and returns the frame that the last run left.
func output(t *testing.T, r *rig, p *program, times uint32) []byte {
	t.Helper()
	if p.subject != nil {
		if err := r.generator.UnderTest.Put(uint32(0), p.subject(r)); err != nil {
			t.Fatal(err)
		}
	}
	options := &ebpf.RunOptions{Data: r.frame, DataOut: make([]byte, 256), Repeat: times}
	if verdict, err := p.entry(r).Run(options); err != nil || verdict != r.testCase.verdict {
		t.Fatalf("verdict %d, error %v", verdict, err)
	}
	return options.DataOut
}

// What a run puts before the frame is off again in the next, and flow 0 is the
// frame that the control side made.
func TestFramesAreRestored(t *testing.T) {
	for name, growth := range map[string]int{"tcp4 dsr-ipip": ipv4Length, "tcp6 dsr-ipip": ipv6Length, "tcp4 dsr-l2": 0} {
		for _, p := range []string{nameFloor, "steelyard"} {
			r := newTestRig(t, caseNamed(t, name))
			if err := r.setFlows(3); err != nil {
				t.Fatal(err)
			}
			once := output(t, r, programNamed(t, p), 1)
			if len(once) != frameLength+growth {
				t.Errorf("%s, %s: %d bytes, want %d", name, p, len(once), frameLength+growth)
			}
			// Three flows on, it is the turn of the first again.
			if again := output(t, r, programNamed(t, p), 3); !bytes.Equal(once, again) {
				t.Errorf("%s, %s: run 4 is\n% x, run 1\n% x", name, p, again, once)
			}
		}
	}
}

func TestFlowsDiffer(t *testing.T) {
	const flows = 2000
	for name, source := range map[string][2]int{"tcp4 dsr-ipip": {26, 30}, "tcp6 dsr-ipip": {22, 38}, "tcp4 dsr-ipip 1000 vips": {26, 30}} {
		c := caseNamed(t, name)
		c.verdict = verdictTX
		r := newTestRig(t, c)
		if err := r.setFlows(flows); err != nil {
			t.Fatal(err)
		}
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
		if got := len(destinations); got > c.vips || got < c.vips*3/4 {
			t.Errorf("%s: %d destinations of %d", name, got, c.vips)
		}
	}
}

func TestNetTakesOffWhatIsNotMeasured(t *testing.T) {
	r := row{Results: map[string]spread{
		nameGenerator: {Median: 40}, nameFloor: {Median: 50}, nameTail: {Median: 41}, "steelyard": {Median: 65}}}
	if net := r.net("steelyard"); net != 24 {
		t.Errorf("net %v, want 24", net)
	}
	if over, ok := r.overFloor("steelyard"); !ok || over != 14 {
		t.Errorf("over floor %v, want 14", over)
	}
	delete(r.Results, nameFloor)
	if _, ok := r.overFloor("steelyard"); ok {
		t.Error("a case without floor has a figure over it")
	}
}

func TestMedian(t *testing.T) {
	if got, want := newSpread([]float64{9, 1, 3}), (spread{Median: 3, Min: 1, Max: 9}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got := newSpread([]float64{4, 1, 2, 9}).Median; got != 3 {
		t.Errorf("median of an even number: %v, want 3", got)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-case", "nothing"}, {"-flows", "0"}, {"-flows", "1,x"}, {"-rounds", "0"}, {"-packets", "0"}, {"more"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
}
