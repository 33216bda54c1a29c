package model

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// Nothing that is done to a clone shows in the original, and a plain copy,
// which shares its slices, is what would go wrong.
func TestCloneIsDeep(t *testing.T) {
	spoil := func(s State) {
		s.VIPs[0].Name = "spoilt"
		s.Pools[0].Name = "spoilt"
		s.Pools[1].Backends[0].Weight = 99
		s.Pools[1].Checks[0].Path = "/spoilt"
		s.VIPs[4].Endpoints[0].Ports = Port(9)
		s.Pools[1].Backends[0].ServerIDs[0].ID = "spoilt"
		_ = append(s.Pools[1].Backends[:1], Backend{})
		_ = append(s.Pools[1].Checks[:1], Check{})
		_ = append(s.Pools[:1], Pool{})
	}
	s := valid()
	spoil(s.Clone())
	if !reflect.DeepEqual(s, valid()) {
		t.Errorf("the original became %+v", s)
	}
	shared := s
	spoil(shared)
	if reflect.DeepEqual(s, valid()) {
		t.Error("control: a copy that shares slices did not show in the original either")
	}
}

func TestCloneOfNothing(t *testing.T) {
	if got := (State{}).Clone(); !reflect.DeepEqual(got, State{}) {
		t.Errorf("got %+v", got)
	}
}

// Whatever the order in which things were added, the state is the same.
func TestSortIsCanonical(t *testing.T) {
	shuffled, seed := false, rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s := valid()
		seed.Shuffle(len(s.VIPs), func(i, j int) { s.VIPs[i], s.VIPs[j] = s.VIPs[j], s.VIPs[i] })
		for _, v := range s.VIPs {
			seed.Shuffle(len(v.Endpoints), func(i, j int) { v.Endpoints[i], v.Endpoints[j] = v.Endpoints[j], v.Endpoints[i] })
		}
		for _, p := range s.Pools {
			for _, b := range p.Backends {
				slices.Reverse(b.ServerIDs)
			}
			seed.Shuffle(len(p.Backends), func(i, j int) { p.Backends[i], p.Backends[j] = p.Backends[j], p.Backends[i] })
			seed.Shuffle(len(p.Checks), func(i, j int) { p.Checks[i], p.Checks[j] = p.Checks[j], p.Checks[i] })
		}
		seed.Shuffle(len(s.Pools), func(i, j int) { s.Pools[i], s.Pools[j] = s.Pools[j], s.Pools[i] })
		shuffled = shuffled || !reflect.DeepEqual(s, valid())
		if s.Sort(); !reflect.DeepEqual(s, valid()) {
			t.Fatalf("got %+v", s)
		}
	}
	if !shuffled {
		t.Error("control: nothing was ever out of order")
	}
}

func TestFind(t *testing.T) {
	s := valid()
	vip, err := s.VIP("web6")
	if err != nil || vip != &s.VIPs[3] {
		t.Errorf("got %v, %v", vip, err)
	}
	pool, err := s.Pool("web")
	if err != nil || pool != s.web() {
		t.Errorf("got %v, %v", pool, err)
	}
	b, err := s.Backend("web", BackendID{Address: address("10.0.1.20")})
	if err != nil || b != &s.web().Backends[1] {
		t.Errorf("got %v, %v", b, err)
	}
	c, err := s.Check("web", "icmp")
	if err != nil || c != &s.web().Checks[2] {
		t.Errorf("got %v, %v", c, err)
	}
	if got := s.VIPsOf("web"); !reflect.DeepEqual(got, []string{"any", "web", "web-quic", "web6", "wide"}) {
		t.Errorf("the VIPs of web are %q", got)
	}
	if got := s.VIPsOf("spare"); got != nil {
		t.Errorf("the VIPs of spare are %q", got)
	}
}

func TestNotFound(t *testing.T) {
	s := valid()
	_, vip := s.VIP("wbe")
	_, pool := s.Pool("sparse")
	_, backend := s.Backend("web", BackendID{Address: address("10.0.1.11")})
	_, backendOfNone := s.Backend("webb", BackendID{})
	_, check := s.Check("web", "htpp")
	_, checkOfNone := s.Check("database", "tcp")
	for want, err := range map[string]error{
		`no VIP "wbe"; did you mean web, web6, wide?`:                              vip,
		`no pool "sparse"; did you mean spare?`:                                    pool,
		`no backend "10.0.1.11" in pool "web"; did you mean 10.0.1.10, 10.0.1.20?`: backend,
		`no pool "webb"; did you mean web?`:                                        backendOfNone,
		`no check "htpp" in pool "web"; did you mean http, https, tcp?`:            check,
		`no pool "database"`:                                                       checkOfNone,
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for want, err := range map[string]error{
		`VIP "web", port: is missing`: &FieldError{Path: `VIP "web", port`, Reason: "is missing"},
		`it is in use`:                &ConflictError{Reason: "it is in use"},
		`the desired state is at revision 4, not 3: somebody changed it in between; look at it again and repeat the change`: &RevisionError{Expected: 3, Actual: 4},
	} {
		if err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
