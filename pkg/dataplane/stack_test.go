package dataplane

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf/asm"
)

const (
	// maxStack is what all functions of a chain of calls may have together, bytes.
	maxStack = 512
	// stackUnit is what Linux before 6.5 counts in, for each function, also for one
	// that has no stack.
	stackUnit = 32
)

// function is a function of a program: its stack, bytes, and whom it calls.
type function struct {
	stack int
	calls map[string]bool
}

// functionsOf are those of a linked program, by name.
func functionsOf(program asm.Instructions) map[string]*function {
	all := map[string]*function{}
	var f *function
	for i, ins := range program {
		if name := ins.Symbol(); name != "" {
			f = &function{calls: map[string]bool{}}
			all[name] = f
		}
		if ins.IsFunctionCall() {
			f.calls[ins.Reference()] = true
			continue
		}
		if class := ins.OpCode.Class(); (class.IsLoad() && ins.Src == asm.R10) || (class.IsStore() && ins.Dst == asm.R10) {
			f.stack = max(f.stack, -int(ins.Offset))
		}
		// An address on the stack: a copy of the frame pointer, less something.
		if ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource && i > 0 && program[i-1].OpCode.ALUOp() == asm.Mov && program[i-1].Src == asm.R10 {
			f.stack = max(f.stack, -int(ins.Constant))
		}
	}
	return all
}

// deepest is the stack of the deepest chain of calls from a function, with its names.
func deepest(all map[string]*function, name string) (int, string) {
	below, chain := 0, ""
	for callee := range all[name].calls {
		if stack, names := deepest(all, callee); stack > below {
			below, chain = stack, " -> "+names
		}
	}
	own := (max(all[name].stack, 1) + stackUnit - 1) / stackUnit * stackUnit
	return own + below, fmt.Sprintf("%s (%d)%s", name, all[name].stack, chain)
}

// TestStack counts as Linux 6.1 does: later ones have more room.
func TestStack(t *testing.T) {
	spec, err := loadLb()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range spec.Programs {
		stack, chain := deepest(functionsOf(program.Instructions), name)
		t.Logf("%d bytes: %s", stack, chain)
		if stack > maxStack {
			t.Errorf("%s: the deepest chain of calls takes %d bytes of stack, more than %d: %s", name, stack, maxStack, chain)
		}
	}
}
