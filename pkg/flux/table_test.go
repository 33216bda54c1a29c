package flux

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const tableIdle = Tick(10)

func free(uint32) bool { return false }

func TestSettle(t *testing.T) {
	const start = Tick(100)
	table := NewTable(4)
	if !table.Move(0, 2, start) || table.InFlux() != 0 {
		t.Fatal("a slot that nobody owned is in flux")
	}
	for slot := range uint32(4) {
		table.Move(slot, 2, start)
		table.Move(slot, 3, start)
	}
	if table.Move(0, 3, start+5) {
		t.Error("a slot moved to where it was")
	}
	table.Move(1, 4, start+5)
	due := start + tableIdle + 1 // the first tick at which a sweep may begin
	for _, c := range []struct {
		name       string
		began, now Tick
		held       func(uint32) bool
		want       []uint32
	}{
		{"as soon as the idle time has passed", due - 1, due - 1, free, nil},
		{"with a sweep that began before that", due - 1, due + 20, free, nil},
		{"with a sweep that began before slot 1 moved", start + 4, due + 20, free, nil},
		{"but what is held", due, due + 20, func(slot uint32) bool { return slot != 2 }, []uint32{2}},
		{"what is left", due, due, free, []uint32{0, 1, 3}},
		{"when nothing is left", due, due, free, nil},
	} {
		if got := table.Settle(c.began, c.now, tableIdle, c.held); !slices.Equal(got, c.want) {
			t.Errorf("settle %s: %d, want %d", c.name, got, c.want)
		}
	}
	if got, want := table.Words(), []Word{Settled(3), Settled(4), Settled(3), Settled(3)}; !slices.Equal(got, want) {
		t.Errorf("slots settled as %08x, want %08x", got, want)
	}
}

// A slot that moves while a sweep is under way waits for the next one.
func TestSettleAfterMoveDuringSweep(t *testing.T) {
	table := Adopt([]Word{Settled(2)}, 0)
	table.Move(0, 3, 100)
	table.Move(0, 4, 200)
	for _, began := range []Tick{190, 200} {
		if got := table.Settle(began, 210, tableIdle, free); got != nil {
			t.Errorf("settled by a sweep that began at %d", began)
		}
	}
	if got := table.Settle(201, 210, tableIdle, free); len(got) != 1 {
		t.Error("not settled by the next sweep")
	}
}

func TestSettleAfterLoss(t *testing.T) {
	const lost = Tick(500)
	table := Adopt([]Word{Settled(2)}, 0)
	table.Move(0, 3, 100)
	table.Lost(lost)
	if got := table.Settle(lost+tableIdle, lost+50, tableIdle, free); got != nil {
		t.Error("settled within the idle time after a loss")
	}
	if got := table.Settle(lost+tableIdle+1, lost+50, tableIdle, free); len(got) != 1 {
		t.Error("not settled after that")
	}
}

func TestSettleAcrossWrapAround(t *testing.T) {
	start := Tick(1<<32 - 3)
	table := Adopt([]Word{Settled(2)}, 0)
	table.Move(0, 3, start)
	if got := table.Settle(start+tableIdle, start+tableIdle, tableIdle, free); got != nil {
		t.Error("settled before the idle time")
	}
	if got := table.Settle(start+tableIdle+1, start+tableIdle+2, tableIdle, free); len(got) != 1 {
		t.Error("not settled after the idle time")
	}
}

// Slots adopted in flux wait for the idle time again: nobody knows since when
// they are.
func TestAdopt(t *testing.T) {
	words := []Word{Settled(2), Settled(2).Move(3), Settled(0), Settled(4).Move(0)}
	table := Adopt(words, 1000)
	if n := table.InFlux(); n != 2 {
		t.Errorf("%d slots are in flux, want 2", n)
	}
	for backend, want := range []bool{true, false, true, true, true, false, false} {
		if got := table.Names(uint32(backend)); got != want {
			t.Errorf("names backend %d: %t, want %t", backend, got, want)
		}
	}
	if got := table.Settle(1000+tableIdle, 1000+tableIdle, tableIdle, free); got != nil {
		t.Errorf("settled %d within the idle time", got)
	}
	if got := table.Settle(1001+tableIdle, 1001+tableIdle, tableIdle, free); !slices.Equal(got, []uint32{1, 3}) {
		t.Errorf("settled %d, want 1 and 3", got)
	}
	if words[1] != Settled(3) {
		t.Error("the words are not those that were adopted")
	}
	if table.Names(4) || !table.Names(3) {
		t.Error("settled slots name who owned them, or do not name who does")
	}
}

func TestReset(t *testing.T) {
	table := Adopt([]Word{Settled(2), Settled(2).Move(3)}, 0)
	table.Reset(0)
	table.Reset(1)
	if table.InFlux() != 0 || table.Names(2) || table.Names(3) || !table.Names(0) {
		t.Errorf("after a reset %d slots are in flux, words %08x", table.InFlux(), table.Words())
	}
}

// What a table counts is what a recount finds, whatever it has been through.
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const slots, highest = 13, 9
		table, now := NewTable(slots), rapid.Uint32().Draw(t, "start")
		slot, owners := rapid.Uint32Range(0, slots-1), rapid.Uint32Range(0, highest)
		t.Repeat(map[string]func(*rapid.T){
			"move": func(t *rapid.T) {
				table.Move(slot.Draw(t, "slot"), owners.Draw(t, "owner"), Tick(now))
			},
			"reset": func(t *rapid.T) { table.Reset(slot.Draw(t, "slot")) },
			"lost":  func(*rapid.T) { table.Lost(Tick(now)) },
			"adopt": func(*rapid.T) { table = Adopt(table.Words(), Tick(now)) },
			"settle": func(t *rapid.T) {
				odd := rapid.Bool().Draw(t, "odd ones are held")
				table.Settle(Tick(now), Tick(now), tableIdle, func(slot uint32) bool { return odd && slot%2 == 1 })
			},
			"wait": func(t *rapid.T) { now += rapid.Uint32Range(0, 30).Draw(t, "ticks") },
			"": func(t *rapid.T) {
				inFlux, named := 0, map[uint32]bool{}
				for _, w := range table.Words() {
					named[w.Owner()], named[w.Prior()] = true, true
					if w.InFlux() {
						inFlux++
					} else if w.Owner() != w.Prior() {
						t.Fatalf("settled word %08x has another prior", uint32(w))
					}
				}
				if got := table.InFlux(); got != inFlux {
					t.Fatalf("%d slots are in flux, counted %d", inFlux, got)
				}
				for backend := range uint32(highest + 5) {
					if got := table.Names(backend); got != named[backend] {
						t.Fatalf("names backend %d: %t, a recount says %t", backend, got, named[backend])
					}
				}
			},
		})
	})
}
