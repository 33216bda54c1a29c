package dataplane

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// mostInstructions is how many instructions the verifier may have to look at. The
// kernel gives up at 1,000,000; other kernels count differently.
const mostInstructions = 250_000

// TestVerifierHasRoom reports what the verifier had to look at.
func TestVerifierHasRoom(t *testing.T) {
	spec, err := loadLb()
	if err != nil {
		t.Fatal(err)
	}
	size(spec, smallLimits())
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	processed := regexp.MustCompile(`processed (\d+) insns`)
	for name, program := range coll.Programs {
		m := processed.FindStringSubmatch(program.VerifierLog)
		if m == nil {
			t.Errorf("%s: the verifier does not say how many instructions it processed:\n%s", name, program.VerifierLog)
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, strings.TrimSpace(program.VerifierLog))
		if n > mostInstructions {
			t.Errorf("%s: the verifier processed %d instructions, at most %d expected", name, n, mostInstructions)
		}
	}
}

// TestReasonNames: the names come from the program itself, one for every reason.
func TestReasonNames(t *testing.T) {
	spec, err := loadLb()
	if err != nil {
		t.Fatal(err)
	}
	names, err := reasonNames(spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != int(lbReasonREASONS) || names[lbReasonDROP_TOO_BIG] != "drop_too_big" || names[0] != "pass_not_ip" {
		t.Errorf("got %q", names)
	}
	seen := map[string]bool{}
	for i, name := range names {
		prefix, _, _ := strings.Cut(name, "_")
		if !strings.Contains("pass tx redirect drop", prefix) || prefix == "" || seen[name] {
			t.Errorf("reason %d is called %q", i, name)
		}
		seen[name] = true
	}
}
