package dataplane

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// bitmap is the obvious way to hand out runs: what ranges are held against.
type bitmap struct {
	first uint32
	taken []bool
}

// take finds the first run of n that are free.
func (b *bitmap) take(n int) (run, bool) {
	for at := 0; at+n <= len(b.taken); at++ {
		if !slices.Contains(b.taken[at:at+n], true) {
			b.set(at, n, true)
			return run{b.first + uint32(at), b.first + uint32(at+n)}, true
		}
	}
	return run{}, false
}

func (b *bitmap) set(at, n int, to bool) {
	for i := at; i < at+n; i++ {
		b.taken[i] = to
	}
}

func (b *bitmap) used() uint32 {
	n := uint32(0)
	for _, t := range b.taken {
		if t {
			n++
		}
	}
	return n
}

func TestRangesAgainstBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, size := rapid.Uint32Range(0, 9).Draw(t, "first"), rapid.IntRange(1, 60).Draw(t, "size")
		r := newRanges("things", first, first+uint32(size))
		model := &bitmap{first, make([]bool, size)}
		var held []run
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				n := rapid.IntRange(1, 12).Draw(t, "n")
				want, fits := model.take(n)
				got, err := r.take(uint32(n))
				if (err == nil) != fits || got != want {
					t.Fatalf("take(%d) gives %v, %v; want %v, %v", n, got, err, want, fits)
				}
				if fits {
					held = append(held, got)
				}
			},
			"give": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip("nothing is held")
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				back := held[i]
				held = slices.Delete(held, i, i+1)
				r.give(back)
				model.set(int(back.start-first), int(back.length()), false)
			},
			"clone": func(*rapid.T) {
				// A clone is no part of the original.
				c := r.clone()
				for i := range c.free {
					c.free[i] = run{}
				}
				c.used = 0
			},
			"": func(t *rapid.T) {
				if r.used != model.used() || r.size != uint32(size) {
					t.Fatalf("used %d of %d, want %d of %d", r.used, r.size, model.used(), size)
				}
				for i := 1; i < len(r.free); i++ {
					if r.free[i-1].end >= r.free[i].start {
						t.Fatalf("free runs %v are not sorted and apart", r.free)
					}
				}
			},
		})
	})
}

func TestRangesWhole(t *testing.T) {
	r := newRanges("things", 2, 10)
	all, err := r.take(8)
	if err != nil || all != (run{2, 10}) {
		t.Fatalf("got %v, %v", all, err)
	}
	if _, err := r.take(1); err == nil {
		t.Error("one more was there")
	}
	r.give(run{5, 5})
	if r.used != 8 || len(r.free) != 0 {
		t.Errorf("an empty run changes something: %+v", r)
	}
	r.give(all)
	if again, err := r.take(8); err != nil || again != all {
		t.Errorf("after giving all back: %v, %v", again, err)
	}
}
