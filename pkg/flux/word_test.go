package flux

import (
	"testing"

	"pgregory.net/rapid"
)

// The layout is the packet path's too: owner in bits 0 to 14, flag in bit 15,
// prior in bits 16 to 30.
func TestWordLayout(t *testing.T) {
	for _, c := range []struct {
		word         Word
		owner, prior uint32
		inFlux       bool
	}{
		{0, 0, 0, false},
		{Settled(2), 2, 2, false},
		{0x00050005, 5, 5, false},
		{0x00058007, 7, 5, true},
		{0x7ffffff0, 0x7ff0, 0x7fff, true},
		{Settled(0x7fff), 0x7fff, 0x7fff, false},
	} {
		if o, p, f := c.word.Owner(), c.word.Prior(), c.word.InFlux(); o != c.owner || p != c.prior || f != c.inFlux {
			t.Errorf("%08x has owner %d, prior %d, in flux %t; want %d, %d, %t", uint32(c.word), o, p, f, c.owner, c.prior, c.inFlux)
		}
	}
}

func TestWordMove(t *testing.T) {
	for _, c := range []struct {
		name         string
		word         Word
		to           uint32
		owner, prior uint32
		inFlux       bool
	}{
		{"to where it is", Settled(2), 2, 2, 2, false},
		{"away", Settled(2), 3, 3, 2, true},
		{"on", Settled(2).Move(3), 4, 4, 2, true},
		{"back", Settled(2).Move(3), 2, 2, 2, true},
		{"to where it is in flux", Settled(2).Move(3), 3, 3, 2, true},
		{"to nobody", Settled(2), 0, 0, 2, true},
		{"from nobody in flux", Settled(2).Move(0), 3, 3, 2, true},
		{"from nobody", Settled(0), 3, 3, 3, false},
		{"from nobody who resets", Settled(1), 3, 3, 3, false},
		{"between nobodies", Settled(0), 1, 1, 1, false},
		{"the highest numbers", Settled(0x7fff), 0x7ffe, 0x7ffe, 0x7fff, true},
	} {
		got := c.word.Move(c.to)
		if got.Owner() != c.owner || got.Prior() != c.prior || got.InFlux() != c.inFlux {
			t.Errorf("%s: %08x moves to %08x; want owner %d, prior %d, in flux %t", c.name, uint32(c.word), uint32(got), c.owner, c.prior, c.inFlux)
		}
	}
}

// A slot keeps its prior through any number of moves, until it settles.
func TestWordKeepsPrior(t *testing.T) {
	owners := rapid.Uint32Range(0, ownerMask)
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint32Range(First, ownerMask).Draw(t, "first")
		w := Settled(first)
		for _, owner := range rapid.SliceOf(owners).Draw(t, "owners") {
			before := w
			if w = w.Move(owner); w.Owner() != owner || w.Prior() != first || w>>31 != 0 {
				t.Fatalf("%08x moves to %08x", uint32(before), uint32(w))
			}
			if owner != first && !w.InFlux() || before.InFlux() && !w.InFlux() {
				t.Fatalf("%08x moves to %08x, which is not in flux", uint32(before), uint32(w))
			}
		}
		if settled := w.Settle(); settled != Settled(w.Owner()) {
			t.Fatalf("%08x settles to %08x", uint32(w), uint32(settled))
		}
	})
}
