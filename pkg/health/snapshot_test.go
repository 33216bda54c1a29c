package health

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func TestTargets(t *testing.T) {
	id := func(s string) model.BackendID {
		id, err := model.ParseBackendID(s)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	tcp, icmp := model.Check{Type: model.CheckTCP, Port: 81}, model.Check{Name: "ping", Type: model.CheckICMP}
	state := model.State{Pools: []model.Pool{
		{Name: "api", Backends: []model.Backend{{BackendID: id("192.0.2.9"), State: model.Enabled}}},
		{Name: "web", Checks: []model.Check{icmp, tcp}, Backends: []model.Backend{
			{BackendID: id("192.0.2.1"), State: model.Enabled},
			{BackendID: id("192.0.2.2"), State: model.Disabled},
			{BackendID: id("[2001:db8::3]:80"), State: model.Draining},
		}},
	}}
	tcp, icmp = tcp.WithDefaults(), icmp.WithDefaults()
	want := []Target{
		{Key{"web", id("192.0.2.1"), "ping"}, icmp},
		{Key{"web", id("192.0.2.1"), "tcp"}, tcp},
		{Key{"web", id("[2001:db8::3]:80"), "ping"}, icmp},
		{Key{"web", id("[2001:db8::3]:80"), "tcp"}, tcp},
	}
	if got := Targets(state); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if to := want[3].Endpoint(); to != netip.MustParseAddrPort("[2001:db8::3]:81") {
		t.Errorf("a check's own port is not used: %v", to)
	}
	if to := want[2].Endpoint(); to != netip.MustParseAddrPort("[2001:db8::3]:80") {
		t.Errorf("the backend's port is not used: %v", to)
	}
}

func TestBackendFold(t *testing.T) {
	at := func(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }
	type observed struct {
		health model.Health
		since  int
	}
	up, down, unknown := model.HealthUp, model.HealthDown, model.HealthUnknown
	for _, tt := range []struct {
		name   string
		checks []observed
		want   observed
	}{
		{"all up", []observed{{up, 5}, {up, 9}, {up, 7}}, observed{up, 9}},
		{"one down", []observed{{up, 5}, {down, 3}, {unknown, 1}}, observed{down, 3}},
		{"down since the first", []observed{{down, 6}, {down, 3}, {down, 8}}, observed{down, 3}},
		{"not yet known", []observed{{up, 9}, {unknown, 4}, {unknown, 2}}, observed{unknown, 2}},
		{"known to be down before all is known", []observed{{unknown, 1}, {down, 2}}, observed{down, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &model.Pool{Name: "web"}
			id := model.BackendID{Address: netip.MustParseAddr("192.0.2.1")}
			s := &Snapshot{index: map[Key]int{}}
			for i, o := range tt.checks {
				name := string(rune('a' + i))
				p.Checks = append(p.Checks, model.Check{Name: name})
				s.index[Key{"web", id, name}] = i
				s.statuses = append(s.statuses, &model.CheckStatus{Name: name, Health: o.health, Since: at(o.since)})
			}
			if health, since := s.Backend(p, id); health != tt.want.health || !since.Equal(at(tt.want.since)) {
				t.Errorf("got %v since %v, want %v since %v", health, since, tt.want.health, at(tt.want.since))
			}
			p.Checks = append(p.Checks, model.Check{Name: "unheard-of"})
			if health, _ := s.Backend(p, id); health == up {
				t.Error("a check without a target lets the backend be up")
			}
			p.Checks = nil
			if health, since := s.Backend(p, id); health != up || !since.IsZero() {
				t.Errorf("without checks: %v since %v, want up", health, since)
			}
		})
	}
}

// TestReader: in whatever order a reader is asked, it says what the snapshot says.
func TestReader(t *testing.T) {
	p := &model.Pool{Name: "web", Checks: []model.Check{{Name: "a", Type: model.CheckTCP}, {Name: "b", Type: model.CheckTCP}}}
	for i := range 20 {
		state := []model.AdminState{model.Enabled, model.Enabled, model.Disabled}[i%3] // disabled ones are no targets
		p.Backends = append(p.Backends, model.Backend{BackendID: model.BackendID{Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, State: state})
	}
	c := New()
	c.Set(Targets(model.State{Pools: []model.Pool{*p}}))
	last := map[Key]model.CheckStatus{}
	for k := range c.Snapshot().All() {
		last[k] = model.CheckStatus{Name: k.Check, Health: model.Health(rand.IntN(3)), Since: epoch.Add(time.Duration(rand.IntN(1000)) * time.Second)}
	}
	c.Restore(last)
	s := c.Snapshot()
	read := func(order []int) {
		r := s.Reader()
		for _, i := range order {
			id, want := p.Backends[i].BackendID, model.HealthUp
			for _, check := range p.Checks {
				if status := last[Key{"web", id, check.Name}]; graver(status.Health, want) {
					want = status.Health
				}
			}
			if got, _ := r.Backend(p, id); got != want {
				t.Errorf("backend %d is %v, want %v", i, got, want)
			}
		}
	}
	inOrder := make([]int, len(p.Backends))
	for i := range inOrder {
		inOrder[i] = i
	}
	read(inOrder)
	for range 20 {
		read(rand.Perm(len(p.Backends)))
	}
}
