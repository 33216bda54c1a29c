package store

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fresh(t *testing.T) *Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "state.db"))
}

// save stores a state on top of the current one and returns the new revision.
func save(t *testing.T, s *Store, next model.State) uint64 {
	t.Helper()
	_, at, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	saved, err := s.Save(at, next, "test")
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func endpoints(texts ...string) []model.Endpoint {
	list, err := parseAll(texts, model.ParseEndpoint)
	if err != nil {
		panic(err)
	}
	return list
}

func example() model.State {
	return model.State{
		VIPs: []model.VIP{
			{Name: "dns", Endpoints: endpoints("[2001:db8::53]:any"), Protocol: model.UDP, Mode: model.ModeDSRGUE, Pool: "web",
				Tracking: model.TrackingAlways, IdleTimeout: 90 * time.Second,
				Affinity: model.Affinity{Scope: model.AffinityPool, IPv4Prefix: 24, IPv6Prefix: 56}, Fragments: model.FragmentsHash, QUIC: true},
			{Name: "web", Endpoints: endpoints("192.0.2.1:80", "192.0.2.1:8000-8100", "[2001:db8::1]:80"), Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "web",
				Tracking: model.TrackingNone, IdleTimeout: 24 * time.Hour, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow, MSS: 1400},
		},
		Pools: []model.Pool{{
			Name: "web", TableSize: 65537, OnAllDown: model.OnAllDownLastKnown, SlowStart: 1500 * time.Millisecond,
			Checks: []model.Check{{
				Name: "health", Type: model.CheckHTTPS, Port: 8443, Interval: 1500 * time.Millisecond, Timeout: time.Second,
				Rise: 2, Fall: 3, Jitter: 10, Host: "example.com", Path: "/ok?a=<b>", Status: 204, Body: "fine\x00\xff",
			}, {
				Name: "udp", Type: model.CheckUDP, Port: 53, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 1, Send: "\xfe\x00?",
			}},
			Backends: []model.Backend{
				{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 0, State: model.Draining,
					Drain: model.Drain{Since: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC), Deadline: time.Date(2030, 1, 2, 3, 14, 5, 0, time.UTC), Remove: true}},
				{BackendID: model.BackendID{Address: netip.MustParseAddr("2001:db8::10"), Port: 80}, Weight: 65535, State: model.Enabled, MaxConnections: 1 << 24,
					ServerIDs: []model.ServerID{{Config: 0, ID: "\xc4\x60\x5e"}, {Config: 6, ID: "\x00"}}},
			},
		}},
	}
}

func TestEmptyStore(t *testing.T) {
	s := fresh(t)
	state, at, err := s.Load()
	if err != nil || at != 0 || !reflect.DeepEqual(state, model.State{}) {
		t.Errorf("got %+v at %d, %v", state, at, err)
	}
	if entries, err := s.History(10); err != nil || len(entries) != 0 {
		t.Errorf("history is %v, %v", entries, err)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	save(t, s, example())
	seed, err := s.HashSeed()
	if err != nil || seed == ([16]byte{}) {
		t.Fatalf("seed is %x, %v", seed, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	got, at, err := s.Load()
	if err != nil || at != 1 || !reflect.DeepEqual(got, example()) {
		t.Errorf("got  %+v at %d, %v\nwant %+v at 1", got, at, err, example())
	}
	if again, err := s.HashSeed(); err != nil || again != seed {
		t.Errorf("the seed was %x and is %x, %v", seed, again, err)
	}
	if other, err := fresh(t).HashSeed(); err != nil || other == seed {
		t.Errorf("two stores have the seed %x, %v", other, err)
	}
}

// Whatever sequence of states is saved, the last one is what is loaded, and the
// revision counts the changes.
func TestRoundTrip(t *testing.T) {
	s := fresh(t)
	rapid.Check(t, func(t *rapid.T) {
		next := anyState().Draw(t, "state")
		before, at, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		saved, err := s.Save(at, next, "")
		if err != nil {
			t.Fatal(err)
		}
		got, after, err := s.Load()
		if err != nil || after != saved {
			t.Fatalf("at %d, saved %d, %v", after, saved, err)
		}
		next.Sort()
		if !reflect.DeepEqual(got, next) {
			t.Fatalf("got  %+v\nwant %+v", got, next)
		}
		want := at + 1
		if reflect.DeepEqual(before, next) {
			want = at
		}
		if saved != want {
			t.Fatalf("revision %d after %d, want %d", saved, at, want)
		}
	})
}

func anyState() *rapid.Generator[model.State] {
	return rapid.Custom(func(t *rapid.T) model.State {
		name := rapid.StringMatching(`[a-c][A-Za-z0-9._-]{0,2}`)
		vips := rapid.SliceOfNDistinct(anyVIP(name), 0, 6, func(v model.VIP) string { return v.Name }).Draw(t, "vips")
		pools := rapid.SliceOfNDistinct(anyPool(name), 0, 4, func(p model.Pool) string { return p.Name }).Draw(t, "pools")
		return model.State{VIPs: orNil(vips), Pools: orNil(pools)}
	})
}

func anyAddress() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address"))
		return a
	})
}

func anyDuration() *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Int64(), func(n int64) time.Duration { return time.Duration(n) })
}

// anyTime is one that was never, or some time up to the year 2262.
func anyTime() *rapid.Generator[time.Time] {
	return rapid.Map(rapid.Int64Min(0), func(n int64) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return time.Unix(0, n).UTC()
	})
}

func anyVIP(name *rapid.Generator[string]) *rapid.Generator[model.VIP] {
	return rapid.Custom(func(t *rapid.T) model.VIP {
		return model.VIP{
			Name: name.Draw(t, "name"), Endpoints: orNil(rapid.SliceOfN(anyEndpoint(), 0, 4).Draw(t, "endpoints")),
			Protocol: rapid.SampledFrom([]model.Protocol{model.TCP, model.UDP}).Draw(t, "protocol"),
			Mode:     rapid.SampledFrom([]model.Mode{model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE, model.ModeNAT, model.ModeFullNAT}).Draw(t, "mode"),
			Pool:     name.Draw(t, "pool"),
			Tracking: rapid.SampledFrom([]model.Tracking{model.TrackingFlux, model.TrackingAlways, model.TrackingNone}).Draw(t, "tracking"),
			// Zero is written too: only what is missing has a default.
			IdleTimeout: anyDuration().Draw(t, "idle_timeout"),
			Affinity: model.Affinity{
				Scope:      rapid.SampledFrom([]model.AffinityScope{model.AffinityFlow, model.AffinitySource, model.AffinityPool}).Draw(t, "affinity"),
				IPv4Prefix: rapid.Uint8().Draw(t, "ipv4_prefix"), IPv6Prefix: rapid.Uint8().Draw(t, "ipv6_prefix"),
			},
			Fragments: rapid.SampledFrom([]model.FragmentPolicy{model.FragmentsFollow, model.FragmentsHash}).Draw(t, "fragments"),
			MSS:       rapid.Uint16().Draw(t, "mss"), QUIC: rapid.Bool().Draw(t, "quic"), SYNCookies: rapid.Uint32().Draw(t, "syn_cookies"),
		}
	})
}

func anyEndpoint() *rapid.Generator[model.Endpoint] {
	return rapid.Custom(func(t *rapid.T) model.Endpoint {
		e := model.Endpoint{Address: anyAddress().Draw(t, "address")}
		if rapid.Bool().Draw(t, "ports") {
			e.Ports.First = rapid.Uint16Min(1).Draw(t, "first")
			e.Ports.Last = rapid.Uint16Min(e.Ports.First).Draw(t, "last")
		}
		return e
	})
}

func anyServerID() *rapid.Generator[model.ServerID] {
	return rapid.Custom(func(t *rapid.T) model.ServerID {
		return model.ServerID{
			Config: rapid.Uint8Max(model.MaxServerIDConfig).Draw(t, "config"),
			ID:     string(rapid.SliceOfN(rapid.Byte(), 1, model.MaxServerIDLength).Draw(t, "id")),
		}
	})
}

func anyPool(name *rapid.Generator[string]) *rapid.Generator[model.Pool] {
	backend := rapid.Custom(func(t *rapid.T) model.Backend {
		b := model.Backend{
			BackendID:      model.BackendID{Address: anyAddress().Draw(t, "address"), Port: rapid.Uint16().Draw(t, "port")},
			Weight:         rapid.Uint32().Draw(t, "weight"),
			State:          rapid.SampledFrom([]model.AdminState{model.Enabled, model.Draining, model.Disabled}).Draw(t, "state"),
			MaxConnections: rapid.Uint32().Draw(t, "max_connections"),
			ServerIDs:      orNil(rapid.SliceOfN(anyServerID(), 0, 3).Draw(t, "server_ids")),
		}
		if b.State == model.Draining {
			b.Drain = model.Drain{Since: anyTime().Draw(t, "since"), Deadline: anyTime().Draw(t, "deadline"), Remove: rapid.Bool().Draw(t, "remove")}
		}
		return b
	})
	return rapid.Custom(func(t *rapid.T) model.Pool {
		return model.Pool{
			Name: name.Draw(t, "name"), TableSize: rapid.Uint32().Draw(t, "table_size"),
			OnAllDown: rapid.SampledFrom([]model.OnAllDown{model.OnAllDownDrop, model.OnAllDownReset, model.OnAllDownLastKnown}).Draw(t, "on_all_down"),
			DownGrace: anyDuration().Draw(t, "down_grace"), SlowStart: anyDuration().Draw(t, "slow_start"),
			Checks:   orNil(rapid.SliceOfNDistinct(anyCheck(name), 0, 3, func(c model.Check) string { return c.Name }).Draw(t, "checks")),
			Backends: orNil(rapid.SliceOfNDistinct(backend, 0, 5, func(b model.Backend) model.BackendID { return b.BackendID }).Draw(t, "backends")),
		}
	})
}

func anyCheck(name *rapid.Generator[string]) *rapid.Generator[model.Check] {
	count := rapid.Uint32()
	return rapid.Custom(func(t *rapid.T) model.Check {
		return model.Check{
			Name:     name.Draw(t, "name"),
			Type:     rapid.SampledFrom([]model.CheckType{model.CheckTCP, model.CheckHTTP, model.CheckHTTPS, model.CheckUDP, model.CheckICMP}).Draw(t, "type"),
			Port:     rapid.Uint16().Draw(t, "port"),
			Interval: anyDuration().Draw(t, "interval"), Timeout: anyDuration().Draw(t, "timeout"),
			Rise: count.Draw(t, "rise"), Fall: count.Draw(t, "fall"), Jitter: count.Draw(t, "jitter"), Status: count.Draw(t, "status"),
			Host: rapid.String().Draw(t, "host"), Path: rapid.String().Draw(t, "path"),
			Body: string(rapid.SliceOf(rapid.Byte()).Draw(t, "body")), Send: string(rapid.SliceOf(rapid.Byte()).Draw(t, "send")),
		}
	})
}

// orNil makes empty slices nil, as they are loaded.
func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

// Files of older schemas have records without what later ones added: they get the
// defaults, and are then as if this program had written them.
func TestOldFiles(t *testing.T) {
	backend := model.Backend{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 1, State: model.Draining}
	first := model.State{
		VIPs: []model.VIP{
			{Name: "dns", Endpoints: endpoints("192.0.2.53:53"), Protocol: model.UDP, Mode: model.ModeDSRIPIP, Pool: "web", Tracking: model.TrackingAlways},
			{Name: "web", Endpoints: endpoints("192.0.2.1:80"), Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "web", Tracking: model.TrackingFlux},
		},
		Pools: []model.Pool{{Name: "web", TableSize: 251, OnAllDown: model.OnAllDownDrop, DownGrace: model.DefaultDownGrace, Backends: []model.Backend{backend}}},
	}
	for i := range first.VIPs {
		v := &first.VIPs[i]
		v.IdleTimeout, v.Affinity, v.Fragments = model.DefaultIdleTimeout, model.DefaultAffinity(), model.FragmentsFollow
	}
	second := first.Clone()
	second.VIPs[0].Endpoints, second.VIPs[0].Tracking = endpoints("[2001:db8::53]:any"), model.TrackingFlux
	second.VIPs[1].IdleTimeout = time.Hour
	second.Pools[0].DownGrace, second.Pools[0].SlowStart = 0, time.Minute
	second.Pools[0].Backends[0].Drain.Remove = true
	for version, file := range map[string]struct {
		dns, web, pool string
		want           model.State
	}{
		"1": {
			`{"address":"192.0.2.53","protocol":"udp","port":53,"mode":"dsr-ipip","pool":"web"}`,
			`{"address":"192.0.2.1","protocol":"tcp","port":80,"mode":"dsr-l2","pool":"web"}`,
			`{"table_size":251,"on_all_down":"drop","backends":[{"address":"10.0.1.10","weight":1,"state":"draining"}]}`,
			first,
		},
		"2": {
			`{"address":"2001:db8::53","protocol":"udp","port":0,"mode":"dsr-ipip","pool":"web","tracking":"flux","idle_timeout":"15m0s"}`,
			`{"address":"192.0.2.1","protocol":"tcp","port":80,"mode":"dsr-l2","pool":"web","tracking":"flux","idle_timeout":"1h0m0s"}`,
			`{"table_size":251,"on_all_down":"drop","down_grace":"0s","slow_start":"1m0s","backends":[{"address":"10.0.1.10","weight":1,"state":"draining","drain":{"remove":true}}]}`,
			second,
		},
	} {
		t.Run(version, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			poke(t, path, bucketMeta, keySchema, version)
			poke(t, path, bucketMeta, keyRevision, "\x00\x00\x00\x00\x00\x00\x00\x07")
			poke(t, path, bucketVIPs, "dns", file.dns)
			poke(t, path, bucketVIPs, "web", file.web)
			poke(t, path, bucketPools, "web", file.pool)
			upgrades(t, path, file.want)
		})
	}
}

// upgrades wants a file to hold a state at revision 7, and this program's schema,
// whenever it is opened.
func upgrades(t *testing.T, path string, want model.State) {
	t.Helper()
	if err := want.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"old", "upgraded"} {
		s := open(t, path)
		got, at, err := s.Load()
		if err != nil || at != 7 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v at %d, %v\nwant %+v at 7", when, got, at, err, want)
		}
		if found, err := s.checkSchema(); err != nil || found != schema {
			t.Errorf("%s: the schema is %d, %v", when, found, err)
		}
		if at := save(t, s, want); at != 7 {
			t.Errorf("%s: saving what is there already makes revision %d", when, at)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A record whose endpoints, server IDs or words cannot be read is refused, and the
// control, without the mistake, is not.
func TestUnreadableRecords(t *testing.T) {
	for reason, records := range map[string][2]string{
		`is not an endpoint`:     {`{"endpoints":["192.0.2.1"],"protocol":"tcp","mode":"dsr-l2","pool":"p"}`, `{"endpoints":["192.0.2.1:80"],"protocol":"tcp","mode":"dsr-l2","pool":"p"}`},
		`unknown affinity "x"`:   {`{"protocol":"tcp","mode":"dsr-l2","pool":"p","affinity":{"scope":"x"}}`, `{"protocol":"tcp","mode":"dsr-l2","pool":"p","affinity":{"scope":"pool"}}`},
		`unknown fragments "x"`:  {`{"protocol":"tcp","mode":"dsr-l2","pool":"p","fragments":"x"}`, `{"protocol":"tcp","mode":"dsr-l2","pool":"p","fragments":"hash"}`},
		`cannot be read`:         {`{"protocol":"tcp","mode":"dsr-l2","pool":"p","mss":65536}`, `{"protocol":"tcp","mode":"dsr-l2","pool":"p","mss":65535}`},
		`unknown field "answer"`: {`{"protocol":"tcp","mode":"dsr-l2","pool":"p","answer":42}`, `{"protocol":"tcp","mode":"dsr-l2","pool":"p"}`},
	} {
		if _, err := decodeVIP("x", []byte(records[0])); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s gives %v, want %s", records[0], err, reason)
		}
		if _, err := decodeVIP("x", []byte(records[1])); err != nil {
			t.Errorf("control: %s gives %v", records[1], err)
		}
	}
	for ids, good := range map[string]bool{`["9:01"]`: false, `["0:01"]`: true, `"0:01"`: false} {
		_, err := decodePool("x", fmt.Appendf(nil, `{"on_all_down":"drop","backends":[{"address":"10.0.1.10","state":"enabled","server_ids":%s}]}`, ids))
		if (err == nil) != good {
			t.Errorf("server IDs %s give %v", ids, err)
		}
	}
}

func TestConflict(t *testing.T) {
	s := fresh(t)
	save(t, s, example())
	for _, expect := range []uint64{0, 2} {
		if _, err := s.Save(expect, model.State{}, "stale"); !errors.Is(err, ErrConflict) {
			t.Errorf("saving on revision %d gives %v", expect, err)
		}
	}
	got, at, err := s.Load()
	if err != nil || at != 1 || !reflect.DeepEqual(got, example()) {
		t.Errorf("a refused change left %+v at %d, %v", got, at, err)
	}
}

func TestRefusedStates(t *testing.T) {
	s := fresh(t)
	twice := model.State{VIPs: []model.VIP{example().VIPs[0], example().VIPs[0]}}
	unnamed := model.State{Pools: []model.Pool{{OnAllDown: model.OnAllDownDrop}}}
	binary := example()
	binary.Pools[0].Checks[0].Path = "/\xff"
	for name, state := range map[string]model.State{"name taken": twice, "name missing": unnamed, "path not text": binary} {
		if at, err := s.Save(0, state, ""); err == nil {
			t.Errorf("%s: saved at %d", name, at)
		}
	}
	if got, at, err := s.Load(); err != nil || at != 0 || !reflect.DeepEqual(got, model.State{}) {
		t.Errorf("refused states left %+v at %d, %v", got, at, err)
	}
}

func TestHistory(t *testing.T) {
	s := fresh(t)
	begin := time.Now()
	save(t, s, example())
	next := example()
	next.VIPs = append(next.VIPs[1:], model.VIP{Name: "new", Endpoints: endpoints("192.0.2.2:any"), Protocol: model.TCP, Mode: model.ModeDSRL2, Pool: "web", Tracking: model.TrackingFlux,
		Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow})
	next.Pools[0].Backends[0].Weight++
	if at := save(t, s, next); at != 2 {
		t.Errorf("the second change is revision %d", at)
	}
	if at := save(t, s, next); at != 2 {
		t.Errorf("no change makes revision %d", at)
	}
	entries, err := s.History(5)
	if err != nil || len(entries) != 2 || entries[1].Revision != 1 {
		t.Fatalf("got %+v, %v", entries, err)
	}
	want := []Change{{KindPool, "web", Changed}, {KindVIP, "dns", Removed}, {KindVIP, "new", Added}}
	e := entries[0]
	if e.Revision != 2 || e.Note != "test" || e.More != 0 || !slices.Equal(e.Changes, want) {
		t.Errorf("got %+v, want changes %v", e, want)
	}
	if e.Time.Before(begin) || e.Time.After(time.Now()) {
		t.Errorf("the entry's time is %v", e.Time)
	}
	if entries, err := s.History(1); err != nil || len(entries) != 1 || entries[0].Revision != 2 {
		t.Errorf("the newest one is %+v, %v", entries, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := fresh(t)
	s.db.NoSync = true // speed only: a thousand commits
	state := example()
	const extra = 5
	for i := range historyLength + extra {
		state.Pools[0].Backends[0].Weight = uint32(i + 1)
		save(t, s, state)
	}
	entries, err := s.History(2 * historyLength)
	if err != nil || len(entries) != historyLength {
		t.Fatalf("%d entries are kept, %v", len(entries), err)
	}
	if newest, oldest := entries[0].Revision, entries[historyLength-1].Revision; newest != historyLength+extra || oldest != extra+1 {
		t.Errorf("revisions %d to %d are kept", oldest, newest)
	}
}

func manyVIPs(n int) model.State {
	var s model.State
	for i := range n {
		s.VIPs = append(s.VIPs, model.VIP{
			Name:      fmt.Sprintf("vip%05d", i),
			Endpoints: []model.Endpoint{{Address: netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), Ports: model.Port(443)}},
			Protocol:  model.TCP, Mode: model.ModeDSRL2, Pool: "web",
			Tracking: model.TrackingFlux, IdleTimeout: model.DefaultIdleTimeout, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow,
		})
	}
	return s
}

// One changed VIP among ten thousand writes one record. bbolt counts its writes
// per transaction, so its own statistics are the witness.
func TestSmallChangeOfALargeState(t *testing.T) {
	s := fresh(t)
	state := manyVIPs(10_000)
	save(t, s, state)
	entries, err := s.History(1)
	if err != nil || len(entries[0].Changes) != changesKept || entries[0].More != 10_000-changesKept {
		t.Errorf("the import's entry names %d changes and %d more, %v", len(entries[0].Changes), entries[0].More, err)
	}
	all := s.db.Stats()
	state.VIPs[7777].Endpoints[0].Ports = model.Port(80)
	save(t, s, state)
	one := s.db.Stats().TxStats
	if d := one.Sub(&all.TxStats); d.GetPageAlloc() > 20*4096 {
		t.Errorf("one changed VIP wrote %d bytes", d.GetPageAlloc())
	}
	if entries, err := s.History(1); err != nil || !slices.Equal(entries[0].Changes, []Change{{KindVIP, "vip07777", Changed}}) {
		t.Errorf("the entry is %+v, %v", entries, err)
	}
	quiet := s.db.Stats().TxStats
	save(t, s, state)
	after := s.db.Stats().TxStats
	if d := after.Sub(&quiet); d.GetWrite() != 0 {
		t.Errorf("no change made %d writes", d.GetWrite())
	}
}

func TestHealth(t *testing.T) {
	s := fresh(t)
	since := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	a := CheckHealth{"web", model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, "tcp", model.HealthUp, since, "L4OK", "", "first probe"}
	b := CheckHealth{"web", model.BackendID{Address: netip.MustParseAddr("2001:db8::1"), Port: 80}, "http", model.HealthDown, since, "L7STS", "status 503", "3 of 3 failed"}
	never := CheckHealth{Pool: "web", Backend: a.Backend, Check: "icmp"}
	for _, all := range [][]CheckHealth{{a, b}, {a, b}, {b}, {never}, nil} {
		if err := s.SaveHealth(all); err != nil {
			t.Fatal(err)
		}
		got, err := s.LoadHealth()
		if err != nil || !slices.Equal(got, all) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, all)
		}
	}
	if err := s.SaveHealth([]CheckHealth{a, a}); err == nil {
		t.Error("the same check twice is accepted")
	}
	if _, at, err := s.Load(); err != nil || at != 0 {
		t.Errorf("health moved the state to revision %d, %v", at, err)
	}
}

// poke writes to a closed store behind its back.
func poke(t *testing.T, path, bucket, key, value string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), []byte(value))
	})
	if err != nil {
		t.Fatal(err)
	}
}
