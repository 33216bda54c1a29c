package forwarding

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

const slots = 251

func id(n int) model.BackendID {
	return model.BackendID{Address: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}
}

// backend is one of weight 1 that is enabled.
func backend(n int) model.Backend {
	return model.Backend{BackendID: id(n), Weight: 1, State: model.Enabled}
}

func poolOf(name string, backends ...model.Backend) model.Pool {
	return model.Pool{Name: name, TableSize: slots, OnAllDown: model.OnAllDownDrop, Backends: backends}
}

func stateOf(pools ...model.Pool) model.State {
	return model.State{Pools: pools}
}

// health says of each backend what the map says, by its number; up where it says nothing.
func health(of map[int]model.Health) Health {
	return func(_ *model.Pool, b model.BackendID) (model.Health, time.Time) {
		for n, h := range of {
			if id(n) == b {
				return h, time.Time{}
			}
		}
		return model.HealthUp, time.Time{}
	}
}

// always says the same of every backend.
func always(h model.Health) Health {
	return func(*model.Pool, model.BackendID) (model.Health, time.Time) { return h, time.Time{} }
}

func allUp(p *model.Pool, b model.BackendID) (model.Health, time.Time) {
	return always(model.HealthUp)(p, b)
}
func allDown(p *model.Pool, b model.BackendID) (model.Health, time.Time) {
	return always(model.HealthDown)(p, b)
}
func unknown(p *model.Pool, b model.BackendID) (model.Health, time.Time) {
	return always(model.HealthUnknown)(p, b)
}

func build(t *testing.T, state model.State, h Health, last State) State {
	t.Helper()
	next, err := Build(state, h, Nobody, time.Time{}, last)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// expect wants a pool's table to have exactly these members, or to be nil.
func expect(t *testing.T, p *Pool, numbers ...int) {
	t.Helper()
	if p == nil {
		t.Fatal("no such pool")
	}
	var got []model.BackendID
	for _, m := range p.Members {
		got = append(got, m.ID)
	}
	var want []model.BackendID
	for _, n := range numbers {
		want = append(want, id(n))
	}
	if !slices.Equal(got, want) {
		t.Errorf("pool %s: members %v, want %v", p.Name, got, want)
	}
	if len(want) == 0 {
		if p.Table != nil {
			t.Errorf("pool %s has a table and no members", p.Name)
		}
		return
	}
	owners := p.Table.Owners()
	if len(owners) != int(p.Slots) {
		t.Errorf("pool %s: table of %d slots, want %d", p.Name, len(owners), p.Slots)
	}
	seen := make([]bool, len(want))
	for _, m := range owners {
		seen[m] = true
	}
	if slices.Contains(seen, false) {
		t.Errorf("pool %s: of its members, %v have slots", p.Name, seen)
	}
}

func TestMembers(t *testing.T) {
	with := func(change func(*model.Backend)) model.Pool {
		p := poolOf("p", backend(1), backend(2), backend(3))
		change(&p.Backends[1])
		return p
	}
	same := func(*model.Backend) {}
	for name, c := range map[string]struct {
		pool   model.Pool
		health Health
		want   []int
	}{
		"all up":         {with(same), allUp, []int{1, 2, 3}},
		"one down":       {with(same), health(map[int]model.Health{2: model.HealthDown}), []int{1, 3}},
		"one unknown":    {with(same), health(map[int]model.Health{2: model.HealthUnknown}), []int{1, 3}},
		"one draining":   {with(func(b *model.Backend) { b.State = model.Draining }), allUp, []int{1, 3}},
		"one disabled":   {with(func(b *model.Backend) { b.State = model.Disabled }), allUp, []int{1, 3}},
		"one weightless": {with(func(b *model.Backend) { b.Weight = 0 }), allUp, []int{1, 3}},
		"none is known":  {with(same), unknown, nil},
		"none is up":     {with(same), allDown, nil},
		"none at all":    {poolOf("p"), allUp, nil},
	} {
		t.Run(name, func(t *testing.T) {
			next := build(t, stateOf(c.pool), c.health, State{})
			p := next.Pool("p")
			expect(t, p, c.want...)
			if len(p.Backends) != len(c.pool.Backends) {
				t.Errorf("%d backends, want all %d", len(p.Backends), len(c.pool.Backends))
			}
		})
	}
}

// TestFull: who is full has no slots while another has room, and takes flows all the same.
func TestFull(t *testing.T) {
	p := poolOf("p", backend(1), backend(2), backend(3))
	p.Backends[1].MaxConnections = 7
	for name, c := range map[string]struct {
		full   []int
		health Health
		want   []int
	}{
		"nobody":                    {nil, allUp, []int{1, 2, 3}},
		"one":                       {[]int{2}, allUp, []int{1, 3}},
		"all":                       {[]int{1, 2, 3}, allUp, []int{1, 2, 3}},
		"all that are up":           {[]int{1, 2}, health(map[int]model.Health{3: model.HealthDown}), []int{1, 2}},
		"one, and another is down":  {[]int{1}, health(map[int]model.Health{3: model.HealthDown}), []int{2}},
		"who is full, and all down": {[]int{1}, allDown, nil},
	} {
		full := func(_ string, of model.BackendID) bool {
			return slices.ContainsFunc(c.full, func(n int) bool { return id(n) == of })
		}
		next, err := Build(stateOf(p), c.health, full, time.Time{}, State{})
		if err != nil {
			t.Fatal(err)
		}
		got := next.Pool("p")
		expect(t, got, c.want...)
		for i, b := range got.Backends {
			up, _ := c.health(&p, b.ID)
			if b.Takes != (up == model.HealthUp) || b.MaxConnections != p.Backends[i].MaxConnections {
				t.Errorf("%s: %+v", name, b)
			}
		}
	}
}

// TestOnAllDown takes pools through a life of health and changes.
func TestOnAllDown(t *testing.T) {
	none := []int(nil)
	for _, c := range []struct {
		choice model.OnAllDown
		reset  bool
		down   []int
	}{
		{model.OnAllDownDrop, false, none},
		{model.OnAllDownReset, true, none},
		{model.OnAllDownLastKnown, false, []int{1, 2}},
	} {
		t.Run(c.choice.String(), func(t *testing.T) {
			p := poolOf("p", backend(1), backend(2), backend(3))
			p.OnAllDown = c.choice
			// Never up: nobody, whatever the choice.
			s := build(t, stateOf(p), unknown, State{})
			expect(t, s.Pool("p"))
			s = build(t, stateOf(p), allDown, s)
			expect(t, s.Pool("p"))
			if got := s.Pool("p").Reset; got != c.reset {
				t.Errorf("reset %v, want %v", got, c.reset)
			}
			s = build(t, stateOf(p), health(map[int]model.Health{3: model.HealthDown}), s)
			expect(t, s.Pool("p"), 1, 2)
			before := s.Pool("p").Table
			s = build(t, stateOf(p), allDown, s)
			expect(t, s.Pool("p"), c.down...)
			if c.down != nil && before != s.Pool("p").Table {
				t.Error("the last known table is another one")
			}
			// It stays so.
			s = build(t, stateOf(p), allDown, s)
			expect(t, s.Pool("p"), c.down...)
			s = build(t, stateOf(p), allUp, s)
			expect(t, s.Pool("p"), 1, 2, 3)
		})
	}
}

// TestLastKnownIsWhatTheOperatorStillWants: who is removed, disabled, draining or
// of no weight is not brought back.
func TestLastKnownIsWhatTheOperatorStillWants(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*model.Pool)
		want   []int
	}{
		"as it was":  {func(*model.Pool) {}, []int{1, 2, 3}},
		"removed":    {func(p *model.Pool) { p.Backends = slices.Delete(p.Backends, 1, 2) }, []int{1, 3}},
		"disabled":   {func(p *model.Pool) { p.Backends[1].State = model.Disabled }, []int{1, 3}},
		"draining":   {func(p *model.Pool) { p.Backends[1].State = model.Draining }, []int{1, 3}},
		"weightless": {func(p *model.Pool) { p.Backends[1].Weight = 0 }, []int{1, 3}},
		"added":      {func(p *model.Pool) { p.Backends = append(p.Backends, backend(4)) }, []int{1, 2, 3}},
		"all gone":   {func(p *model.Pool) { p.Backends = nil }, nil},
		"all disabled": {func(p *model.Pool) {
			for i := range p.Backends {
				p.Backends[i].State = model.Disabled
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := poolOf("p", backend(1), backend(2), backend(3))
			p.OnAllDown = model.OnAllDownLastKnown
			s := build(t, stateOf(p), allUp, State{})
			p = stateOf(p).Clone().Pools[0]
			c.change(&p)
			s = build(t, stateOf(p), allDown, s)
			expect(t, s.Pool("p"), c.want...)
		})
	}
	t.Run("new weight", func(t *testing.T) {
		p := poolOf("p", backend(1), backend(2))
		p.OnAllDown = model.OnAllDownLastKnown
		s := build(t, stateOf(p), allUp, State{})
		p = stateOf(p).Clone().Pools[0]
		p.Backends[0].Weight = 4
		s = build(t, stateOf(p), allDown, s)
		if shares := s.Pool("p").Shares(); shares[id(1)] < 3*shares[id(2)] {
			t.Errorf("shares %v do not follow the new weight", shares)
		}
	})
	t.Run("table size", func(t *testing.T) {
		p := poolOf("p", backend(1), backend(2))
		p.OnAllDown = model.OnAllDownLastKnown
		s := build(t, stateOf(p), allUp, State{})
		p.TableSize = 509
		s = build(t, stateOf(p), allDown, s)
		expect(t, s.Pool("p"), 1, 2)
	})
}

// TestLastKnownIsPerPool: a pool that is down does not take the members of another.
func TestLastKnownIsPerPool(t *testing.T) {
	a, b := poolOf("a", backend(1)), poolOf("b", backend(2))
	a.OnAllDown, b.OnAllDown = model.OnAllDownLastKnown, model.OnAllDownLastKnown
	s := build(t, stateOf(a, b), health(map[int]model.Health{2: model.HealthDown}), State{})
	s = build(t, stateOf(a, b), allDown, s)
	expect(t, s.Pool("a"), 1)
	expect(t, s.Pool("b"))
	if s.Pool("c") != nil || s.Pool("") != nil {
		t.Error("found a pool that is not there")
	}
}

// TestUnchangedPoolsKeepTheirSlices: what has the same members has the same table,
// by address; what has not has another.
func TestUnchangedPoolsKeepTheirSlices(t *testing.T) {
	pools := []model.Pool{poolOf("a", backend(1), backend(2)), poolOf("b", backend(1), backend(3))}
	first := build(t, stateOf(pools...), allUp, State{})
	second := build(t, stateOf(pools...), health(map[int]model.Health{3: model.HealthDown}), first)
	if first.Pool("a").Table != second.Pool("a").Table {
		t.Error("a has not changed and has another table")
	}
	if first.Pool("b").Table == second.Pool("b").Table {
		t.Error("b has changed and has the same table")
	}
	for name, change := range map[string]func(*model.Pool){
		"weight":     func(p *model.Pool) { p.Backends[0].Weight = 7 },
		"table size": func(p *model.Pool) { p.TableSize = 257 },
		"member":     func(p *model.Pool) { p.Backends[1].State = model.Draining },
	} {
		state := stateOf(pools...).Clone()
		change(&state.Pools[0])
		next := build(t, state, allUp, first)
		if first.Pool("a").Table == next.Pool("a").Table {
			t.Errorf("%s: another table was expected", name)
		}
		if first.Pool("b").Table != next.Pool("b").Table {
			t.Errorf("%s: b is not concerned and has another table", name)
		}
	}
	// One more backend that takes no flows changes no slot.
	state := stateOf(pools...).Clone()
	waiting := backend(9)
	waiting.State = model.Disabled
	state.Pools[0].Backends = append(state.Pools[0].Backends, waiting)
	next := build(t, state, allUp, first)
	if first.Pool("a").Table != next.Pool("a").Table || len(next.Pool("a").Backends) != 3 {
		t.Error("a backend that takes no flows changes the table, or is not there")
	}
}

// TestBuildOnWhatWasThere: what is built on former states is what is built on none, and is
// the same by address as in the former if, and only if, it is equal.
func TestBuildOnWhatWasThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := []model.Pool{poolOf("a", backend(1), backend(2), backend(3)), poolOf("b", backend(4), backend(5))}
		last := State{}
		for range 10 {
			state := stateOf(pools...).Clone()
			b := &state.Pools[rapid.IntRange(0, 1).Draw(t, "pool")].Backends[rapid.IntRange(0, 1).Draw(t, "backend")]
			b.Weight = rapid.Uint32Range(0, 2).Draw(t, "weight")
			b.State = rapid.SampledFrom([]model.AdminState{model.Enabled, model.Enabled, model.Draining, model.Disabled}).Draw(t, "state")
			b.MaxConnections = rapid.Uint32Range(0, 1).Draw(t, "limit")
			if rapid.Bool().Draw(t, "named") {
				b.ServerIDs = []model.ServerID{{ID: "x"}}
			}
			h := health(map[int]model.Health{rapid.IntRange(1, 9).Draw(t, "down"): model.HealthDown})
			next, err := Build(state, h, Nobody, time.Time{}, last)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := Build(state, h, Nobody, time.Time{}, State{})
			if err != nil || !reflect.DeepEqual(next, whole) {
				t.Fatalf("on what was there %+v, on nothing %+v, %v", next, whole, err)
			}
			for i := range last.Pools {
				was, is := &last.Pools[i], &next.Pools[i]
				if kept := &was.Backends[0] == &is.Backends[0]; kept != reflect.DeepEqual(was.Backends, is.Backends) {
					t.Fatalf("backends are the same by address: %t; %+v became %+v", kept, was.Backends, is.Backends)
				}
				if kept := was.Table == is.Table; kept != reflect.DeepEqual(was.Members, is.Members) {
					t.Fatalf("the table is the same: %t; members %+v became %+v", kept, was.Members, is.Members)
				}
			}
			last = next
		}
	})
}

// owners is a pool's table with names instead of indices.
func owners(p *Pool) []model.BackendID {
	if p.Table == nil {
		return nil
	}
	out := make([]model.BackendID, p.Slots)
	for i, m := range p.Table.Owners() {
		out[i] = p.Members[m].ID
	}
	return out
}

// TestBuildIsIndependentOfOrder: the same state in another order has the same owners.
func TestBuildIsIndependentOfOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state := stateOf()
		for p := range rapid.IntRange(1, 4).Draw(t, "pools") {
			pool := poolOf(fmt.Sprintf("p%d", p))
			for n := range rapid.IntRange(1, 10).Draw(t, "backends") {
				b := backend(n)
				b.Weight = rapid.Uint32Range(0, 5).Draw(t, "weight")
				b.State = rapid.SampledFrom([]model.AdminState{model.Enabled, model.Enabled, model.Draining, model.Disabled}).Draw(t, "state")
				pool.Backends = append(pool.Backends, b)
			}
			state.Pools = append(state.Pools, pool)
		}
		down := rapid.IntRange(0, 9).Draw(t, "down")
		h := health(map[int]model.Health{down: model.HealthDown})
		one, err := Build(state, h, Nobody, time.Time{}, State{})
		if err != nil {
			t.Fatal(err)
		}
		shuffled := state.Clone()
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for i := range shuffled.Pools {
			b := shuffled.Pools[i].Backends
			random.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		}
		two, err := Build(shuffled, h, Nobody, time.Time{}, State{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range one.Pools {
			if !slices.Equal(owners(&one.Pools[i]), owners(&two.Pools[i])) {
				t.Fatalf("pool %s has other owners in another order", one.Pools[i].Name)
			}
		}
		again, err := Build(state, h, Nobody, time.Time{}, State{})
		if err != nil || !reflect.DeepEqual(one, again) {
			t.Fatalf("the same input gives another output, %v", err)
		}
	})
}

func TestShares(t *testing.T) {
	p := poolOf("p", backend(1), backend(2), backend(3))
	p.Backends[1].Weight, p.Backends[2].Weight = 2, 3
	p.TableSize = 65537
	s := build(t, stateOf(p), allUp, State{})
	shares := s.Pool("p").Shares()
	total := uint32(0)
	for n := 1; n <= 3; n++ {
		got, want := shares[id(n)], uint32(n)*65537/6
		if got < want-2 || got > want+2 {
			t.Errorf("backend of weight %d has %d slots, want about %d", n, got, want)
		}
		total += got
	}
	if total != 65537 || len(shares) != 3 {
		t.Errorf("shares %v add up to %d", shares, total)
	}
	s = build(t, stateOf(p), allDown, s)
	if shares := s.Pool("p").Shares(); len(shares) != 0 {
		t.Errorf("nobody is up, and the shares are %v", shares)
	}
}

// TestBuildCarriesVIPs: VIPs go through as they are.
func TestBuildCarriesVIPs(t *testing.T) {
	state := stateOf(poolOf("p", backend(1)))
	state.VIPs = []model.VIP{{Name: "v", Endpoints: []model.Endpoint{{Address: id(99).Address, Ports: model.Port(80)}}, Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "p"}}
	if s := build(t, state, allUp, State{}); !reflect.DeepEqual(s.VIPs, state.VIPs) {
		t.Errorf("got %+v, want %+v", s.VIPs, state.VIPs)
	}
}

func TestBuildFails(t *testing.T) {
	p := poolOf("bad", backend(1))
	p.TableSize = 252
	if _, err := Build(stateOf(p), allUp, Nobody, time.Time{}, State{}); err == nil {
		t.Error("a table size that is not a prime was accepted")
	}
}
