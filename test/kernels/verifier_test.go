package kernels

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// mostInstructions is how many instructions a verifier may have to look at: a
// quarter of what makes it give up. Older kernels look at more.
const mostInstructions = 250_000

// verifierTail is how many lines of what a verifier says are shown.
const verifierTail = 40

// constants are the values that tests give to a program's load-time constants,
// by name. Each constant of a program has to have some; the verifier sees every
// combination. What does not change the code needs one value.
type constants map[string][]any

// object is a BPF object file with its constants.
type object struct {
	file      string
	constants constants
}

func objects() []object {
	const lb = "../../pkg/dataplane/lb_bpfel.o"
	return []object{
		{lb, balancer(constants{
			"gue_checksum": {false, true},
			"icmp_cost":    {uint64(0), uint64(1_000_000)}, // none, and 1000 a second
			"spread_ipv4":  {uint16(0), uint16(0xff00)},    // /32 and /24
			"spread_ipv6":  {uint16(0), uint16(0xffff)},    // /128 and /112
		})},
		// What translates does not encapsulate: these two meet once.
		{lb, balancer(constants{
			"gue_checksum":     {true},
			"icmp_cost":        {uint64(0), uint64(1_000_000)},
			"nat_sources_ipv4": {uint32(0), uint32(1024)}, // none, and /22
			"nat_sources_ipv6": {uint32(0), uint32(2)},
			"spread_ipv4":      {uint16(0xff00)},
			"spread_ipv6":      {uint16(0xffff)},
		})},
		{"../../pkg/backend/decap_bpfel.o", constants{
			"gue_port":   {uint16(0), uint16(0xc017)},
			"hash_seed":  nil, // it hashes nothing
			"vocabulary": nil,
		}},
	}
}

// balancer completes constants of the balancer with those whose value does not matter.
func balancer(c constants) constants {
	all := constants{
		"backend_row":      {uint32(1 << 12)},
		"flow_mask":        {uint32(1<<24 - 1)},
		"fragment_mask":    {uint32(1<<12 - 1)},
		"gue_port":         {uint16(0xc017)}, // 6080 on the wire
		"hash_seed":        {[2]uint64{0x0123456789abcdef, 0xfedcba9876543210}},
		"nat_first_port":   {uint32(1024)},
		"nat_port_count":   {uint32(64512)},
		"nat_source_ipv4":  {uint32(0x0409000a)},
		"nat_source_ipv6":  {[2]uint64{0xb80d0120, 0x0800000000000000}},
		"nat_sources_ipv4": {uint32(0)},
		"nat_sources_ipv6": {uint32(0)},
		"screening":        {true}, // the packet tables run without
		"session_mask":     {uint32(1<<20 - 1)},
		"source_mask":      {uint32(1<<14 - 1)},
		"vip_row":          {uint32(1 << 10)},
		"vocabulary":       nil, // nothing that the program reads
	}
	maps.Copy(all, c)
	return all
}

// TestVerifier loads every program with every combination of the constants that it reads.
func TestVerifier(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects() {
		spec, err := ebpf.LoadCollectionSpec(o.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range o.constants.missing(spec) {
			t.Errorf("%s: the constant %s has no values here; give it some in objects()", o.file, name)
		}
		seen := map[string]bool{}
		for _, c := range o.constants.combinations() {
			t.Run(fmt.Sprintf("%s %s", filepath.Base(o.file), o.constants.choice(c)), func(t *testing.T) {
				load(t, c.unseen(spec.Copy(), seen), c)
			})
		}
	}
}

// TestVerifierRefuses is the control: a program that reads beyond its packet is
// not accepted, a constant without values is noticed, and so is who reads which.
func TestVerifierRefuses(t *testing.T) {
	spec, err := ebpf.LoadCollectionSpec("../../pkg/dataplane/lb_bpfel.o")
	if err != nil {
		t.Fatal(err)
	}
	if missing := (constants{"hash_seed": nil}).missing(spec); !slices.Contains(missing, "flow_mask") || slices.Contains(missing, "hash_seed") {
		t.Errorf("without values are %v", missing)
	}
	for name, changes := range map[string]bool{"steelyard_part": true, "steelyard_nat_error": false} {
		if got := slices.Contains(reads(spec, spec.Programs[name]), "gue_checksum"); got != changes {
			t.Errorf("%s reads gue_checksum: %t, want %t", name, got, changes)
		}
	}
	for _, program := range spec.Programs {
		if len(program.Instructions) > 1 {
			// A return without a value.
			program.Instructions = program.Instructions[len(program.Instructions)-1:]
		}
	}
	if coll, err := ebpf.NewCollection(spec); err == nil {
		coll.Close()
		t.Error("the verifier accepts a program that returns nothing")
	}
}

// missing lists the constants of an object that have no entry.
func (c constants) missing(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, variable := range spec.Variables {
		if _, ok := c[name]; !ok && variable.Constant() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// combination has one value for each constant that is set.
type combination map[string]any

// choice names what is particular to a combination.
func (c constants) choice(of combination) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if len(c[name]) > 1 {
			parts = append(parts, fmt.Sprintf("%s=%v", name, of[name]))
		}
	}
	return strings.Join(parts, " ")
}

// unseen leaves those programs that no former combination has had load as they would now:
// another value of what a program does not read changes nothing for it.
func (c combination) unseen(spec *ebpf.CollectionSpec, seen map[string]bool) *ebpf.CollectionSpec {
	for name, program := range spec.Programs {
		as := name
		for _, constant := range reads(spec, program) {
			as += fmt.Sprintf(" %s=%v", constant, c[constant])
		}
		if seen[as] {
			delete(spec.Programs, name)
		}
		seen[as] = true
	}
	for _, m := range spec.Maps {
		if m.Type == ebpf.ProgramArray { // of which no program's verification depends
			m.Contents = nil
		}
	}
	return spec
}

// reads are the variables that a program refers to, sorted.
func reads(spec *ebpf.CollectionSpec, program *ebpf.ProgramSpec) []string {
	names := map[string]bool{}
	for _, ins := range program.Instructions {
		if !ins.IsLoadFromMap() {
			continue
		}
		at := uint32(uint64(ins.Constant) >> 32) // within the section
		for name, v := range spec.Variables {
			if v.SectionName == ins.Reference() && v.Offset <= at && at < v.Offset+v.Size() {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (c constants) combinations() []combination {
	all := []combination{{}}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if len(c[name]) == 0 {
			continue
		}
		var more []combination
		for _, base := range all {
			for _, value := range c[name] {
				with := maps.Clone(base)
				with[name] = value
				more = append(more, with)
			}
		}
		all = more
	}
	return all
}

func load(t *testing.T, spec *ebpf.CollectionSpec, c combination) {
	for name, value := range c {
		variable, ok := spec.Variables[name]
		if !ok {
			t.Fatalf("the program has no constant %s", name)
		}
		if err := variable.Set(value); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	with := func(level ebpf.LogLevel) (*ebpf.Collection, error) {
		return ebpf.NewCollectionWithOptions(spec.Copy(), ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: level}})
	}
	coll, err := with(ebpf.LogLevelStats)
	var refusal *ebpf.VerifierError
	if errors.As(err, &refusal) {
		if _, again := with(ebpf.LogLevelBranch | ebpf.LogLevelStats); again != nil {
			errors.As(again, &refusal) // this time it says where
		}
		t.Fatalf("%v\n%s", err, strings.Join(refusal.Log[max(0, len(refusal.Log)-verifierTail):], "\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	processed := regexp.MustCompile(`processed (\d+) insns`)
	for name, program := range coll.Programs {
		m := processed.FindStringSubmatch(program.VerifierLog)
		if m == nil {
			t.Fatalf("%s: the verifier does not say how many instructions it processed:\n%s", name, program.VerifierLog)
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: the verifier processed %d instructions", name, n)
		if n > mostInstructions {
			t.Errorf("%s: that is more than %d", name, mostInstructions)
		}
	}
}
