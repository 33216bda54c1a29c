package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/tools/bench/subject"
)

// programSize is what the kernel made of a program: figures that do not depend on
// the clock.
type programSize struct {
	Name string
	// Verified is how many instructions the verifier went through, on all paths.
	Verified uint32
	// Bytecode and MachineCode are in bytes.
	Bytecode    int
	MachineCode uint32
}

// limit is the most that a program may take: about a quarter more than it did when
// the limit was set, on Linux 6.18 and amd64. Who makes a program larger, on purpose,
// sets another one.
type limit struct {
	name                  string
	verified, machineCode uint32
}

func limits() []limit {
	return []limit{
		{"steelyard", 57_000, 25_000},
		{"steelyard_part", 135_000, 40_000},
		{"steelyard_nat", 102_000, 56_000},
		{"steelyard_nat_fragment", 155_000, 66_000},
		{"steelyard_nat_error", 72_000, 38_000},
		{"steelyard_syn", 26_000, 21_000},
	}
}

// structure describes the load balancers' programs, loaded with room for few flows and
// with every feature that a case needs.
func structure() ([]programSize, error) {
	c := subject.Case{Protocol: model.TCP, Mode: model.ModeFullNAT, VIPs: 1, Tracking: model.TrackingAlways, Affinity: model.DefaultAffinity(), Link: "lo"}
	var sizes []programSize
	for _, p := range programs() {
		if !p.measured() {
			continue
		}
		s, err := p.load(c, 1000)
		if err != nil {
			return nil, err
		}
		more, err := sizesOf(s.Program())
		if err := errors.Join(err, s.Close()); err != nil {
			return nil, err
		}
		sizes = append(sizes, more...)
	}
	return sizes, nil
}

// sizesOf describes a program and those that it calls, by name.
func sizesOf(main *ebpf.Program) ([]programSize, error) {
	called, err := programsOf(main)
	var sizes []programSize
	for _, p := range append(called, main) {
		s, more := sizeOf(p)
		sizes, err = append(sizes, s), errors.Join(err, more)
	}
	for _, p := range called {
		err = errors.Join(err, p.Close())
	}
	slices.SortFunc(sizes, func(a, b programSize) int { return strings.Compare(a.Name, b.Name) })
	return sizes, err
}

// programsOf finds the programs that a program calls: those in the arrays of
// programs that it uses. The caller closes them.
func programsOf(main *ebpf.Program) ([]*ebpf.Program, error) {
	info, err := main.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	var called []*ebpf.Program
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return called, err
		}
		defer m.Close()
		if m.Type() != ebpf.ProgramArray {
			continue
		}
		var index, program uint32
		for entries := m.Iterate(); entries.Next(&index, &program); {
			p, err := ebpf.NewProgramFromID(ebpf.ProgramID(program))
			if err != nil {
				return called, err
			}
			called = append(called, p)
		}
	}
	return called, nil
}

func sizeOf(p *ebpf.Program) (programSize, error) {
	info, err := p.Info()
	if err != nil {
		return programSize{}, err
	}
	s := programSize{Name: info.Name}
	var known bool
	if s.Verified, known = info.VerifiedInstructions(); !known {
		return s, errors.New("the kernel does not tell how many instructions it verified; Linux 5.16 or later does")
	}
	if s.MachineCode, err = info.JitedSize(); err != nil {
		return s, err
	}
	s.Bytecode, err = info.TranslatedSize()
	return s, err
}

// checkStructure prints the programs' sizes and fails if one is above its limit.
func checkStructure(out io.Writer) error {
	sizes, err := structure()
	if err != nil {
		return err
	}
	if err := printSizes(out, sizes); err != nil {
		return err
	}
	var above []error
	for _, l := range limits() {
		i := slices.IndexFunc(sizes, func(s programSize) bool { return s.Name == l.name })
		if i < 0 {
			above = append(above, fmt.Errorf("there is no program %s", l.name))
			continue
		}
		above = append(above, l.exceeded("instructions verified", sizes[i].Verified, l.verified),
			l.exceeded("bytes of machine code", sizes[i].MachineCode, l.machineCode))
	}
	return errors.Join(above...)
}

func (l limit) exceeded(what string, is, most uint32) error {
	if is <= most {
		return nil
	}
	return fmt.Errorf("program %s: %d %s, at most %d are wanted; see limits in structure.go", l.name, is, what, most)
}

func printSizes(out io.Writer, sizes []programSize) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "program\tinstructions verified\tbytes of bytecode\tbytes of machine code\t")
	for _, s := range sizes {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", s.Name, s.Verified, s.Bytecode, s.MachineCode)
	}
	return table.Flush()
}
