package reconcile

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
	"github.com/steelyard-lb/steelyard/pkg/neighbor"
)

// givenChecker and givenResolver say what they were given, the very same each time.
type givenChecker struct {
	*fakeChecker
	snapshot *health.Snapshot
}

func (c *givenChecker) Snapshot() *health.Snapshot { return c.snapshot }

type givenResolver struct {
	*fakeResolver
	table neighbor.Table
}

func (r *givenResolver) Table() neighbor.Table { return r.table }

// checkedPools are pools of checked backends.
func checkedPools(pools, backends int) model.State {
	var state model.State
	for i := range pools {
		pool := model.Pool{Name: fmt.Sprintf("pool-%04d", i), TableSize: 65537, DownGrace: time.Hour, Checks: []model.Check{{Name: "tcp", Type: model.CheckTCP}}}
		for j := range backends {
			n := i*backends + j
			id := model.BackendID{Address: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
			pool.Backends = append(pool.Backends, model.Backend{BackendID: id, Weight: 1, State: model.Enabled})
		}
		state.Pools = append(state.Pools, pool)
	}
	state.Sort()
	return state
}

// snapshotOf is one in which the first backend is up or down, and all others up.
func snapshotOf(state model.State, first model.Health) *health.Snapshot {
	c := health.New()
	targets := health.Targets(state)
	c.Set(targets)
	statuses := make(map[health.Key]model.CheckStatus, len(targets))
	for i, t := range targets {
		h := model.HealthUp
		if i == 0 {
			h = first
		}
		statuses[t.Key] = model.CheckStatus{Name: t.Key.Check, Health: h, Since: time.Now(), Checked: time.Now()}
	}
	c.Restore(statuses)
	return c.Snapshot()
}

// flapping is a loop of which one backend goes and returns, over a plane that does nothing.
func flapping(t testing.TB, state model.State) (loop *Loop, plane *fakePlane, turn func()) {
	t.Helper()
	table := neighbor.Table{}
	for _, p := range state.Pools {
		for _, b := range p.Backends {
			table[b.Address] = hopTo(b.Address)
		}
	}
	up, down := snapshotOf(state, model.HealthUp), snapshotOf(state, model.HealthDown)
	checker := &givenChecker{newFakeChecker(), up}
	plane = newFakePlane()
	loop, err := New(Options{
		Plane: plane, Checker: checker, Resolver: &givenResolver{newFakeResolver(), table},
		Store: &fakeStore{revision: 1, state: state}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	loop.retry = time.NewTimer(time.Hour)
	loop.reconcile()
	return loop, plane, func() {
		if checker.snapshot = up; loop.health[0] == model.HealthUp {
			checker.snapshot = down
		}
		loop.reconcile()
	}
}

// BenchmarkReconcile is what one backend of 100,000 costs that goes or returns, besides what
// the data plane does.
func BenchmarkReconcile(b *testing.B) {
	_, _, turn := flapping(b, checkedPools(1000, 100))
	for b.Loop() {
		turn()
	}
}

// TestReconcileKeeps: what a backend does not change, the data plane is given as it was.
func TestReconcileKeeps(t *testing.T) {
	_, plane, turn := flapping(t, checkedPools(3, 4))
	for _, members := range []int{3, 4, 3} {
		before := plane.applied
		turn()
		now := plane.applied
		if n := len(now.Pools[0].Members); n != members || &now.Pools[0].Backends[0] == &before.Pools[0].Backends[0] {
			t.Errorf("the pool that changes has %d members, want %d, and others than before", n, members)
		}
		for i := 1; i < 3; i++ {
			was, is := &before.Pools[i], &now.Pools[i]
			if &was.Backends[0] != &is.Backends[0] || was.Table != is.Table {
				t.Errorf("%s is not what it was", is.Name)
			}
		}
		if !now.Paths.Same(before.Paths) {
			t.Error("paths are not what they were")
		}
	}
}
