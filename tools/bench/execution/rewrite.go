package execution

import (
	"errors"
	"math"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// rewrite returns the program with something put into every block: what the caller makes
// of the block's number, of the registers that are free there, and of the stack that the
// function uses.
func (f *flow) rewrite(make func(number int, free registers, stack int16) asm.Instructions) (asm.Instructions, error) {
	free, stacks := f.free(), f.stacks()
	var out asm.Instructions
	moved, targets := map[int]int{}, map[int]int{}
	for number, b := range f.blocks() {
		at := b.roomiest(free)
		before, after := f.program[b.start:at], append(asm.Instructions{}, f.program[at:b.end]...)
		added := make(number, free[at], stacks[at])
		if at == b.start {
			passName(&after[0], &added[0])
		}
		moved[b.start] = len(out)
		out = append(append(append(out, before...), added...), after...)
		if target := f.target[b.end-1]; target >= 0 {
			targets[len(out)-1] = target
		}
	}
	// Where instructions have moved to, jumps go to.
	for from, target := range targets {
		targets[from] = moved[target]
	}
	return out, redirect(out, targets)
}

// roomiest is before which instruction of a block most registers are free.
func (b block) roomiest(free []registers) int {
	best := b.start
	for i := b.start; i < b.end; i++ {
		if free[i].count() > free[best].count() {
			best = i
		}
	}
	return best
}

// passName makes another instruction the first one of a function, if one was.
func passName(from, to *asm.Instruction) {
	if from.Symbol() == "" {
		return
	}
	// The kernel wants the first one's line as well.
	*to = to.WithSymbol(from.Symbol()).WithSource(from.Source())
	if f := btf.FuncMetadata(from); f != nil {
		*to = btf.WithFuncMetadata(*to, f)
	}
	*from = btf.WithFuncMetadata(from.WithSymbol(""), nil)
}

// redirect makes instructions jump to others.
func redirect(program asm.Instructions, targets map[int]int) error {
	offsets := make([]int, 0, len(program))
	for at := program.Iterate(); at.Next(); {
		offsets = append(offsets, int(at.Offset))
	}
	for from, target := range targets {
		ins, distance := &program[from], offsets[target]-offsets[from]-1
		switch {
		case ins.OpCode.Class() == asm.Jump32Class && ins.OpCode.JumpOp() == asm.Ja:
			ins.Constant = int64(distance)
		case distance < math.MinInt16 || distance > math.MaxInt16:
			return errors.New("the program has become too long for its jumps")
		default:
			ins.Offset = int16(distance)
		}
	}
	return nil
}

// stacks are how many bytes of stack the function of each instruction uses.
func (f *flow) stacks() []int16 {
	stacks := make([]int16, len(f.program))
	start := 0
	for i := range f.program {
		ins := &f.program[i]
		if ins.Symbol() != "" {
			start = i
		} else {
			stacks[i] = stacks[i-1]
		}
		// An address on the stack is a copy of the frame pointer, less something.
		if class := ins.OpCode.Class(); class.IsLoad() && ins.Src == asm.R10 || class.IsStore() && ins.Dst == asm.R10 {
			stacks[i] = max(stacks[i], -ins.Offset)
		} else if i > start && ins.OpCode == asm.Add.Op(asm.ImmSource) && f.program[i-1].OpCode == asm.Mov.Op(asm.RegSource) && f.program[i-1].Src == asm.R10 {
			stacks[i] = max(stacks[i], -int16(ins.Constant))
		}
	}
	// What the last instruction of a function has, all have.
	for i := len(stacks) - 2; i >= 0; i-- {
		if f.program[i+1].Symbol() == "" {
			stacks[i] = stacks[i+1]
		}
	}
	return stacks
}
