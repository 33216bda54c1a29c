package api_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

func draining(address string, deadline *time.Duration, remove bool) *steelyardv1.Mutation {
	drain := &steelyardv1.DrainBackend{Pool: "web", Backend: &steelyardv1.BackendFields{Address: address}, Remove: remove}
	if deadline != nil {
		drain.DeadlineNanoseconds = new(int64(*deadline))
	}
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_DrainBackend{DrainBackend: drain}}
}

func removeDrained(pool, address string) *steelyardv1.Mutation {
	return removing(&steelyardv1.RemoveBackend{Pool: pool, Backend: &steelyardv1.BackendFields{Address: address}})
}

func state(address, state string) *steelyardv1.Mutation {
	return setBackend("web", &steelyardv1.BackendFields{Address: address, State: &state})
}

// outcome makes mutations and returns the backends that drain as the answer says.
func (w *world) outcome(t *testing.T, mutations ...*steelyardv1.Mutation) []string {
	t.Helper()
	outcome, err := w.client.Change(t.Context(), &steelyardv1.ChangeRequest{Mutations: mutations})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range outcome.Draining {
		names = append(names, b.Pool+"/"+b.ID.String())
	}
	return names
}

// at returns a backend of pool web as it is desired, nil if it is not there.
func (w *world) at(t *testing.T, address string) *model.Backend {
	t.Helper()
	id, err := model.ParseBackendID(address)
	if err != nil {
		t.Fatal(err)
	}
	desired, _, err := w.client.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := desired.Pool("web")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pool.Backend(id)
	return b
}

func (w *world) wantDrain(t *testing.T, address string, want model.Drain) {
	t.Helper()
	b := w.at(t, address)
	if b == nil || b.State != model.Draining || !b.Drain.Since.Equal(want.Since) || !b.Drain.Deadline.Equal(want.Deadline) || b.Drain.Remove != want.Remove {
		t.Errorf("backend is %+v, want it to drain as %+v", b, want)
	}
}

func TestDrain(t *testing.T) {
	w := newWorld(t)
	begin := w.now
	w.mustChange(t, addVIP(web(), backends("10.0.1.10", "10.0.1.11")...))
	if got := w.outcome(t, draining("10.0.1.10", nil, false)); !reflect.DeepEqual(got, []string{"web/10.0.1.10"}) {
		t.Errorf("draining are %q", got)
	}
	w.wantDrain(t, "10.0.1.10", model.Drain{Since: begin})

	// Later it is given a deadline, and is to be removed: it has been draining all along.
	w.now = begin.Add(time.Minute)
	w.mustChange(t, draining("10.0.1.10", new(10*time.Minute), true))
	want := model.Drain{Since: begin, Deadline: begin.Add(11 * time.Minute), Remove: true}
	w.wantDrain(t, "10.0.1.10", want)
	w.mustChange(t, state("10.0.1.10", "draining"))
	w.wantDrain(t, "10.0.1.10", want)
	w.mustChange(t, setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", Weight: new(uint32(7))}))
	w.wantDrain(t, "10.0.1.10", want)

	// Other states end it, and the next one begins afresh.
	for _, other := range []string{"enabled", "disabled"} {
		w.mustChange(t, state("10.0.1.10", other))
		if b := w.at(t, "10.0.1.10"); b.State.String() != other || b.Drain != (model.Drain{}) {
			t.Errorf("%s: backend is %+v", other, b)
		}
		w.mustChange(t, state("10.0.1.10", "draining"))
		w.wantDrain(t, "10.0.1.10", model.Drain{Since: w.now})
	}
	w.mustChange(t, setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", State: new("enabled")}))
	if got := w.outcome(t, draining("10.0.1.10", nil, false), state("10.0.1.10", "enabled")); got != nil {
		t.Errorf("draining are %q, although nothing is", got)
	}
	w.mustChange(t, addPool("spare", &steelyardv1.BackendFields{Address: "10.0.2.10", State: new("draining")}))
	desired, _ := w.Desired()
	if b := desired.Pools[0].Backends[0]; b.Drain != (model.Drain{Since: w.now}) {
		t.Errorf("added to drain: %+v", b)
	}
}

func TestRemoveDrainsFirst(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10", "10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14")...))
	w.mustChange(t, state("10.0.1.11", "disabled"), state("10.0.1.12", "draining"), addPool("spare", backends("10.0.2.10")...))
	remove := removeDrained("web", "10.0.1.10")
	remove.GetRemoveBackend().DeadlineNanoseconds = new(int64(time.Hour))
	got := w.outcome(t, remove, removeDrained("web", "10.0.1.11"), removeDrained("web", "10.0.1.12"), removeBackend("web", "10.0.1.13"), removeDrained("spare", "10.0.2.10"))
	if want := []string{"web/10.0.1.10", "web/10.0.1.12"}; !reflect.DeepEqual(got, want) {
		t.Errorf("draining are %q, want %q", got, want)
	}
	w.wantDrain(t, "10.0.1.10", model.Drain{Since: w.now, Deadline: w.now.Add(time.Hour), Remove: true})
	w.wantDrain(t, "10.0.1.12", model.Drain{Since: w.now, Remove: true})
	for _, gone := range []string{"10.0.1.11", "10.0.1.13"} {
		if b := w.at(t, gone); b != nil {
			t.Errorf("backend %s is still there: %+v", gone, b)
		}
	}
	if desired, _ := w.Desired(); len(desired.Pools[0].Backends) != 0 {
		t.Errorf("a backend of a pool that no VIP uses is still there: %+v", desired.Pools[0])
	}
	// What drains can still be removed at once.
	if got := w.outcome(t, removeBackend("web", "10.0.1.10")); got != nil || w.at(t, "10.0.1.10") != nil {
		t.Errorf("draining are %q", got)
	}
}

// A VIP is never left without a backend: neither now, nor once those that drain
// are removed.
func TestLastBackendStays(t *testing.T) {
	const last = `is the last one of pool "web", which is in use by VIP web`
	refused := func(w *world, want string, mutations ...*steelyardv1.Mutation) {
		t.Helper()
		before, _ := w.Desired()
		err := w.change(t, mutations...)
		var answer *api.Error
		if !errors.As(err, &answer) || answer.Code != connect.CodeFailedPrecondition || !strings.Contains(answer.Message, want) {
			t.Errorf("error %v, want %s", err, want)
		}
		if after, _ := w.Desired(); !reflect.DeepEqual(before, after) {
			t.Errorf("the error changed\n%+v to\n%+v", before, after)
		}
	}
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10", "10.0.1.11")...))
	refused(w, last, removeDrained("web", "10.0.1.10"), removeDrained("web", "10.0.1.11"))
	w.mustChange(t, removeDrained("web", "10.0.1.10"))
	refused(w, "backend 10.0.1.11 "+last, removeDrained("web", "10.0.1.11"))
	refused(w, "backend 10.0.1.11 "+last, removeBackend("web", "10.0.1.11"))
	refused(w, "backend 10.0.1.11 "+last, draining("10.0.1.11", nil, true))
	w.mustChange(t, removeDrained("web", "10.0.1.11"), addBackend("web", "10.0.1.12"))

	// A pool that empties itself cannot be taken into use.
	w = newWorld(t)
	w.mustChange(t, addPool("web", backends("10.0.1.10")...), draining("10.0.1.10", nil, true))
	vip := web()
	vip.Pool = new("web")
	refused(w, `every backend of pool "web" is removed once it is drained`, addVIP(vip))
	w.mustChange(t, state("10.0.1.10", "enabled"), addVIP(vip))
}

func TestDrainErrors(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10", "10.0.1.11")...))
	both := removeBackend("web", "10.0.1.10")
	both.GetRemoveBackend().DeadlineNanoseconds = new(int64(1))
	for name, row := range map[string]struct {
		mutation *steelyardv1.Mutation
		code     connect.Code
		want     string
	}{
		"unknown backend":  {draining("10.0.1.12", nil, false), connect.CodeNotFound, "did you mean 10.0.1.10"},
		"no backend":       {&steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_DrainBackend{}}, connect.CodeNotFound, "no pool"},
		"nothing":          {&steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveBackend{}}, connect.CodeNotFound, "no pool"},
		"no time":          {draining("10.0.1.10", new(time.Duration(0)), false), connect.CodeInvalidArgument, "backend 10.0.1.10, deadline: 0s must be more than 0"},
		"the past":         {draining("10.0.1.10", new(-time.Second), false), connect.CodeInvalidArgument, "must be more than 0"},
		"too far away":     {draining("10.0.1.10", new(9000*time.Hour), false), connect.CodeInvalidArgument, "at most 8760h"},
		"now and deadline": {both, connect.CodeInvalidArgument, "give one of the two"},
	} {
		err := w.change(t, row.mutation)
		var answer *api.Error
		if !errors.As(err, &answer) || answer.Code != row.code || !strings.Contains(answer.Message, row.want) {
			t.Errorf("%s: error %v, want %v, %s", name, err, row.code, row.want)
		}
	}
}
