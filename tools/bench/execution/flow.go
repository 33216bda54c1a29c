package execution

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/asm"
)

// flow is the control flow of a linked program, functions included. Instructions go by
// their index.
type flow struct {
	program asm.Instructions
	// target is where an instruction jumps to, -1: nowhere.
	target []int
	// leads says that an instruction is the first of a basic block.
	leads []bool
}

func newFlow(program asm.Instructions) (*flow, error) {
	index := map[asm.RawInstructionOffset]int{}
	for at := program.Iterate(); at.Next(); {
		index[at.Offset] = at.Index
	}
	f := &flow{program: program, target: make([]int, len(program)), leads: make([]bool, len(program)+1)}
	for at := program.Iterate(); at.Next(); {
		i := at.Index
		f.target[i] = -1
		if at.Ins.Symbol() != "" {
			f.leads[i] = true
		}
		if distance, ok := jump(at.Ins); ok {
			target, ok := index[at.Offset+1+asm.RawInstructionOffset(distance)]
			if !ok || at.Ins.Reference() != "" {
				return nil, fmt.Errorf("instruction %d, %v: it jumps to no instruction", i, at.Ins)
			}
			f.target[i], f.leads[target] = target, true
		}
		if endsBlock(at.Ins) {
			f.leads[i+1] = true
		}
	}
	return f, nil
}

// jump is how far an instruction jumps, in raw instructions from the next one. It
// reports false if it is none that jumps.
func jump(ins *asm.Instruction) (int64, bool) {
	switch op := ins.OpCode.JumpOp(); {
	case op == asm.InvalidJumpOp, op == asm.Call, op == asm.Exit:
		return 0, false
	case op == asm.Ja && ins.OpCode.Class() == asm.Jump32Class:
		return ins.Constant, true
	}
	return int64(ins.Offset), true
}

// endsBlock reports whether what follows may not be executed as often as the
// instruction. A tail call that succeeds does not return.
func endsBlock(ins *asm.Instruction) bool {
	_, jumps := jump(ins)
	return jumps || ins.OpCode.JumpOp() == asm.Exit || isCall(ins, asm.FnTailCall)
}

func isCall(ins *asm.Instruction, of asm.BuiltinFunc) bool {
	return ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == of
}

// next are the instructions that may be executed after one in the same function.
func (f *flow) next(i int) []int {
	var all []int
	op := f.program[i].OpCode.JumpOp()
	if op != asm.Ja && op != asm.Exit && i+1 < len(f.program) {
		all = append(all, i+1)
	}
	if f.target[i] >= 0 {
		all = append(all, f.target[i])
	}
	return all
}

// block is a sequence of instructions that are executed as often as its first one.
type block struct{ start, end int }

func (f *flow) blocks() []block {
	var all []block
	for start := 0; start < len(f.program); {
		end := start + 1 + slices.Index(f.leads[start+1:], true)
		if end == start {
			end = len(f.program)
		}
		all = append(all, block{start, end})
		start = end
	}
	return all
}
