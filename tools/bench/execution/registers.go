package execution

import (
	"math/bits"

	"github.com/cilium/ebpf/asm"
)

// registers are a set of r0 to r9.
type registers uint16

const (
	arguments registers = 1<<asm.R1 | 1<<asm.R2 | 1<<asm.R3 | 1<<asm.R4 | 1<<asm.R5
	result    registers = 1 << asm.R0
	general   registers = 1<<asm.R10 - 1
)

// only is the set of one register; the frame pointer is in none.
func only(r asm.Register) registers { return 1 << r & general }

func (s registers) count() int { return bits.OnesCount16(uint16(s)) }

// list has the registers in order.
func (s registers) list() []asm.Register {
	var all []asm.Register
	for r := asm.R0; r < asm.R10; r++ {
		if s&only(r) != 0 {
			all = append(all, r)
		}
	}
	return all
}

// effect is what an instruction does with registers, in doubt with more of them.
type effect struct {
	// reads are those whose values it may need.
	reads registers
	// loses are those whose former values are gone for certain.
	loses registers
	// writes are those that may have values afterwards, leaves those that have none.
	writes, leaves registers
}

func effectOf(ins *asm.Instruction) effect {
	switch class := ins.OpCode.Class(); {
	case class.IsALU():
		return effectOfALU(ins)
	case class.IsJump():
		return effectOfJump(ins)
	case class == asm.LdXClass, ins.OpCode.IsDWordLoad():
		e := effect{loses: only(ins.Dst), writes: only(ins.Dst)}
		if class == asm.LdXClass {
			e.reads = only(ins.Src)
		}
		return e
	case class == asm.StClass:
		return effect{reads: only(ins.Dst)}
	case class == asm.StXClass && ins.OpCode.Mode() != asm.AtomicMode:
		return effect{reads: only(ins.Dst) | only(ins.Src)}
	}
	// Atomic operations may return something, and what is left is of classic BPF.
	all := only(ins.Dst) | only(ins.Src) | result
	if ins.OpCode.Class() == asm.LdClass {
		all = general
	}
	return effect{reads: all, writes: all}
}

func effectOfALU(ins *asm.Instruction) effect {
	e := effect{reads: only(ins.Dst), writes: only(ins.Dst)}
	op := ins.OpCode.ALUOp()
	switch op {
	case asm.Mov, asm.MovSX8, asm.MovSX16, asm.MovSX32:
		e.reads, e.loses = 0, only(ins.Dst)
	}
	// Of a swap of bytes the source says the order.
	if ins.OpCode.Source() == asm.RegSource && op != asm.Swap {
		e.reads |= only(ins.Src)
	}
	return e
}

func effectOfJump(ins *asm.Instruction) effect {
	switch ins.OpCode.JumpOp() {
	case asm.Exit:
		return effect{reads: result}
	case asm.Call:
		return effect{reads: arguments, loses: arguments | result, writes: result, leaves: arguments}
	case asm.Ja, asm.JCOND:
		return effect{}
	}
	e := effect{reads: only(ins.Dst)}
	if ins.OpCode.Source() == asm.RegSource {
		e.reads |= only(ins.Src)
	}
	return e
}

// free are the registers that the program does not need before each instruction: those
// that are not read before they are written again, and those that have no value yet, for
// the verifier lets no program read them.
func (f *flow) free() []registers {
	live, valued := f.live(), f.valued()
	all := make([]registers, len(f.program))
	for i := range all {
		all[i] = general &^ (live[i] & valued[i])
	}
	return all
}

// live are the registers that may be read at an instruction or later, as they are before it.
func (f *flow) live() []registers {
	live := make([]registers, len(f.program))
	for changed := true; changed; {
		changed = false
		for i := len(f.program) - 1; i >= 0; i-- {
			var after registers
			for _, next := range f.next(i) {
				after |= live[next]
			}
			e := effectOf(&f.program[i])
			if before := e.reads | after&^e.loses; before != live[i] {
				live[i], changed = before, true
			}
		}
	}
	return live
}

// valued are the registers that may have a value before an instruction. A function begins
// with its arguments.
func (f *flow) valued() []registers {
	valued := make([]registers, len(f.program))
	for i := range valued {
		if f.program[i].Symbol() != "" || i == 0 {
			valued[i] = arguments
		}
	}
	for changed := true; changed; {
		changed = false
		for i := range f.program {
			e := effectOf(&f.program[i])
			after := (valued[i] | e.writes) &^ e.leaves
			for _, next := range f.next(i) {
				if more := valued[next] | after; more != valued[next] {
					valued[next], changed = more, true
				}
			}
		}
	}
	return valued
}
