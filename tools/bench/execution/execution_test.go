package execution

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// frame has a length that the programs see.
func frame(length int) []byte { return make([]byte, length) }

// load loads the programs, and again so that a counter counts.
func load(t *testing.T, spec *ebpf.CollectionSpec) (plain, counting *ebpf.Collection, counter *Counter) {
	t.Helper()
	rewritten := spec.Copy()
	counter = NewCounter()
	if err := counter.Rewrite(rewritten); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := counter.Close(); err != nil {
			t.Error(err)
		}
	})
	var all [2]*ebpf.Collection
	for i, s := range []*ebpf.CollectionSpec{spec, rewritten} {
		c, err := ebpf.NewCollection(s)
		var rejected *ebpf.VerifierError
		if errors.As(err, &rejected) {
			t.Fatalf("%+v", rejected)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		all[i] = c
	}
	return all[0], all[1], counter
}

// count runs a program once and returns what it says and how much it has executed.
func count(t *testing.T, counter *Counter, p *ebpf.Program, length int) (uint32, Counts) {
	t.Helper()
	before, err := counter.Counts()
	if err != nil {
		t.Fatal(err)
	}
	says, err := p.Run(&ebpf.RunOptions{Data: frame(length)})
	if err != nil {
		t.Fatal(err)
	}
	after, err := counter.Counts()
	if err != nil {
		t.Fatal(err)
	}
	return says, after.Minus(before)
}

func classifier(program ...asm.Instruction) *ebpf.ProgramSpec {
	program[0] = program[0].WithSymbol("main")
	return &ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: program}
}

// branch is a jump over so many raw instructions.
func branch(op asm.JumpOp, dst asm.Register, value int32, distance int16) asm.Instruction {
	ins := op.Imm(dst, value, "")
	if op == asm.Ja {
		ins = op.Label("")
	}
	ins.Offset = distance
	return ins
}

// looping doubles the numbers below the frame's length, in a function of its own that adds
// one to what comes of even ones, and returns their sum.
func looping() *ebpf.CollectionSpec {
	program := classifier(
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word), // the frame's length
		asm.And.Imm(asm.R6, 63),
		asm.Mov.Imm(asm.R7, 0),
		branch(asm.JEq, asm.R6, 0, 5),
		asm.Sub.Imm(asm.R6, 1),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Call.Label("double"),
		asm.Add.Reg(asm.R7, asm.R0),
		branch(asm.Ja, 0, 0, -6),
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, 0).WithReference("values"),
		asm.FnMapLookupElem.Call(),
		branch(asm.JNE, asm.R0, 0, 1),
		asm.Return(),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R0, asm.R7),
		asm.Return(),
		branch(asm.JSet, asm.R1, 1, 3).WithSymbol("double"),
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.Add.Imm(asm.R0, 1),
		branch(asm.Ja, 0, 0, 1),
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.Return(),
	)
	return &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"main": program},
		Maps: map[string]*ebpf.MapSpec{"values": {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}}}
}

func TestLoopsAndFunctionsAreCounted(t *testing.T) {
	plain, counting, counter := load(t, looping())
	for _, n := range []uint64{14, 15, 37, 63} {
		even := (n + 1) / 2
		want := Counts{Instructions: 13 + 6*n + 6*even + 4*(n-even), Lookups: 1, Calls: 1}
		says, got := count(t, counter, counting.Programs["main"], int(n))
		if got != want || uint64(says) != n*(n-1)+even {
			t.Errorf("%d rounds: %+v, want %+v; the program says %d", n, got, want, says)
		}
		if same, none := count(t, counter, plain.Programs["main"], int(n)); same != says || none != (Counts{}) {
			t.Errorf("%d rounds: the program as it was says %d, want %d; it is counted: %+v", n, same, says, none)
		}
	}
}

// Where the program needs all registers, they keep what they have.
func TestNoRegisterIsLost(t *testing.T) {
	program := []asm.Instruction{asm.LoadMem(asm.R0, asm.R1, 0, asm.Word), asm.StoreMem(asm.R10, -8, asm.R0, asm.DWord)}
	for r := asm.R1; r < asm.R10; r++ {
		program = append(program, asm.Mov.Imm(r, 1<<r))
	}
	program = append(program, branch(asm.JNE, asm.R0, 20, 1), asm.Add.Imm(asm.R0, 1024), branch(asm.JNE, asm.R0, 21, 1), asm.Add.Imm(asm.R0, 2048))
	for r := asm.R1; r < asm.R10; r++ {
		program = append(program, asm.Add.Reg(asm.R0, r))
	}
	program = append(program, asm.LoadMem(asm.R1, asm.R10, -8, asm.DWord), asm.Add.Reg(asm.R0, asm.R1), asm.Return())
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"main": classifier(program...)}}
	f, err := newFlow(program)
	if err != nil {
		t.Fatal(err)
	}
	if free := f.free()[12]; free.count() != 0 {
		t.Fatalf("the program leaves registers free: %v", free.list())
	}
	_, counting, counter := load(t, spec)
	for length, more := range map[int]uint32{19: 0, 20: 1024, 21: 2048} {
		says, got := count(t, counter, counting.Programs["main"], length)
		want := Counts{Instructions: uint64(len(program)) - 2}
		if more != 0 {
			want.Instructions++
		}
		if got != want || says != 1022+2*uint32(length)+more {
			t.Errorf("length %d: %+v, want %+v; the program says %d", length, got, want, says)
		}
	}
}

// What follows a tail call is executed if it fails, or else what is called.
func TestTailCallsAreFollowed(t *testing.T) {
	spec := &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{
			"main": classifier(asm.LoadMapPtr(asm.R2, 0).WithReference("programs"), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
				asm.Mov.Imm(asm.R0, 1), asm.Add.Imm(asm.R0, 1), asm.Return()),
			"called": classifier(asm.Mov.Imm(asm.R0, 7), asm.Return()),
		},
		Maps: map[string]*ebpf.MapSpec{"programs": {Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1}},
	}
	_, counting, counter := load(t, spec)
	if says, got := count(t, counter, counting.Programs["main"], 20); says != 2 || got != (Counts{Instructions: 6, Calls: 1}) {
		t.Errorf("without the other program it says %d and executes %+v", says, got)
	}
	if err := counting.Maps["programs"].Put(uint32(0), counting.Programs["called"]); err != nil {
		t.Fatal(err)
	}
	if says, got := count(t, counter, counting.Programs["main"], 20); says != 7 || got != (Counts{Instructions: 5, Calls: 1}) {
		t.Errorf("with the other program it says %d and executes %+v", says, got)
	}
}

func TestJumpsToNowhereAreRefused(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"main": classifier(branch(asm.Ja, 0, 0, 5), asm.Return())}}
	if err := NewCounter().Rewrite(spec); err == nil {
		t.Error("nothing was noticed")
	}
}
