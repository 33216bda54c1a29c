package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/steelyard-lb/steelyard/pkg/api"
	"github.com/steelyard-lb/steelyard/pkg/api/apitest"
	"github.com/steelyard-lb/steelyard/pkg/api/steelyardv1"
	"github.com/steelyard-lb/steelyard/pkg/health"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// world is a served controller and a client of it.
type world struct {
	*apitest.Controller
	client *api.Client
	path   string
	// now is what the server's clock says.
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Controller: &apitest.Controller{}, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	w.path = apitest.Serve(t, w.Controller, func() time.Time { return w.now })
	w.client = api.NewClient(w.path)
	t.Cleanup(w.client.Close)
	return w
}

func (w *world) change(t *testing.T, mutations ...*steelyardv1.Mutation) error {
	t.Helper()
	_, err := w.client.Change(t.Context(), &steelyardv1.ChangeRequest{Mutations: mutations, Note: t.Name()})
	return err
}

func (w *world) mustChange(t *testing.T, mutations ...*steelyardv1.Mutation) {
	t.Helper()
	if err := w.change(t, mutations...); err != nil {
		t.Fatal(err)
	}
}

func backends(addresses ...string) []*steelyardv1.BackendFields {
	var out []*steelyardv1.BackendFields
	for _, a := range addresses {
		out = append(out, &steelyardv1.BackendFields{Address: a})
	}
	return out
}

func addVIP(fields *steelyardv1.VIPFields, b ...*steelyardv1.BackendFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddVip{AddVip: &steelyardv1.AddVIP{Vip: fields, Backends: b}}}
}

func web() *steelyardv1.VIPFields {
	return &steelyardv1.VIPFields{Name: "web", Endpoints: endpoints("192.0.2.10:80")}
}

func endpoints(texts ...string) []*steelyardv1.Endpoint {
	var out []*steelyardv1.Endpoint
	for _, e := range modelEndpoints(texts...) {
		out = append(out, api.EncodeEndpoint(e))
	}
	return out
}

func modelEndpoints(texts ...string) []model.Endpoint {
	var out []model.Endpoint
	for _, s := range texts {
		e, err := model.ParseEndpoint(s)
		if err != nil {
			panic(err)
		}
		out = append(out, e)
	}
	return out
}

func setVIP(fields *steelyardv1.VIPFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetVip{SetVip: fields}}
}

func removeVIP(name string) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveVip{RemoveVip: name}}
}

func serverIDs(ids ...string) *steelyardv1.ServerIDs { return &steelyardv1.ServerIDs{Ids: ids} }

func addPool(name string, b ...*steelyardv1.BackendFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddPool{AddPool: &steelyardv1.AddPool{
		Pool: &steelyardv1.PoolFields{Name: name}, Backends: b,
	}}}
}

func setPool(fields *steelyardv1.PoolFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetPool{SetPool: fields}}
}

func removePool(name string) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemovePool{RemovePool: name}}
}

func addBackend(pool, address string) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddBackend{AddBackend: &steelyardv1.BackendInPool{
		Pool: pool, Backend: &steelyardv1.BackendFields{Address: address},
	}}}
}

func setBackend(pool string, fields *steelyardv1.BackendFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetBackend{SetBackend: &steelyardv1.BackendInPool{Pool: pool, Backend: fields}}}
}

func removeBackend(pool, address string) *steelyardv1.Mutation {
	return removing(&steelyardv1.RemoveBackend{Pool: pool, Backend: &steelyardv1.BackendFields{Address: address}, Now: true})
}

func removing(remove *steelyardv1.RemoveBackend) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveBackend{RemoveBackend: remove}}
}

func addCheck(pool string, fields *steelyardv1.CheckFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddCheck{AddCheck: &steelyardv1.CheckInPool{Pool: pool, Check: fields}}}
}

func setCheck(pool string, fields *steelyardv1.CheckFields) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetCheck{SetCheck: &steelyardv1.CheckInPool{Pool: pool, Check: fields}}}
}

func removeCheck(pool, name string) *steelyardv1.Mutation {
	return &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_RemoveCheck{RemoveCheck: &steelyardv1.CheckInPool{
		Pool: pool, Check: &steelyardv1.CheckFields{Name: name},
	}}}
}

func TestAddVIPMakesEverything(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.11", "10.0.1.10")...))
	got, revision, err := w.client.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := model.State{
		VIPs: []model.VIP{{Name: "web", Endpoints: modelEndpoints("192.0.2.10:80"), Protocol: model.TCP, Mode: model.ModeDSRIPIP, Pool: "web",
			Tracking: model.TrackingFlux, IdleTimeout: 15 * time.Minute, Affinity: model.DefaultAffinity(), Fragments: model.FragmentsFollow}},
		Pools: []model.Pool{{
			Name: "web", TableSize: model.DefaultTableSize, OnAllDown: model.OnAllDownDrop, DownGrace: 30 * time.Second,
			Checks: []model.Check{{Name: "tcp", Type: model.CheckTCP, Port: 80, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3}},
			Backends: []model.Backend{
				{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.10")}, Weight: 1, State: model.Enabled},
				{BackendID: model.BackendID{Address: netip.MustParseAddr("10.0.1.11")}, Weight: 1, State: model.Enabled},
			},
		}},
	}
	if revision != 1 || !reflect.DeepEqual(got, want) {
		t.Errorf("revision %d, state\n%+v, want\n%+v", revision, got, want)
	}
	if notes := w.Notes(); !reflect.DeepEqual(notes, []string{t.Name()}) {
		t.Errorf("notes %q", notes)
	}
}

func TestInlineChecks(t *testing.T) {
	udp, quic, anyPort, twoFamilies, twoPorts, wide := web(), web(), web(), web(), web(), web()
	udp.Protocol = new("udp")
	quic.Protocol, quic.Quic = new("udp"), new(true)
	anyPort.Endpoints[0].FirstPort, anyPort.Endpoints[0].LastPort = 0, 0
	twoFamilies.AddEndpoints = endpoints("[2001:db8::10]:80")
	twoPorts.AddEndpoints = endpoints("192.0.2.10:443")
	wide.Endpoints[0].LastPort = 81
	for name, row := range map[string]struct {
		add  *steelyardv1.AddVIP
		want []string // type:port
	}{
		"default of tcp":    {&steelyardv1.AddVIP{Vip: web()}, []string{"tcp:80"}},
		"default of udp":    {&steelyardv1.AddVIP{Vip: udp}, []string{"icmp:any"}},
		"default of QUIC":   {&steelyardv1.AddVIP{Vip: quic}, []string{"icmp:any"}},
		"default of any":    {&steelyardv1.AddVIP{Vip: anyPort}, []string{"icmp:any"}},
		"one port of two":   {&steelyardv1.AddVIP{Vip: twoFamilies}, []string{"tcp:80"}},
		"two ports":         {&steelyardv1.AddVIP{Vip: twoPorts}, []string{"icmp:any"}},
		"a range":           {&steelyardv1.AddVIP{Vip: wide}, []string{"icmp:any"}},
		"none":              {&steelyardv1.AddVIP{Vip: web(), NoChecks: true}, nil},
		"the VIP's port":    {&steelyardv1.AddVIP{Vip: web(), Checks: []*steelyardv1.CheckFields{{Type: new("http")}}}, []string{"http:80"}},
		"a port of its own": {&steelyardv1.AddVIP{Vip: web(), Checks: []*steelyardv1.CheckFields{{Type: new("http"), Port: new(uint32(8080))}}}, []string{"http:8080"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			row.add.Backends = backends("10.0.1.10")
			w.mustChange(t, &steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddVip{AddVip: row.add}})
			state, _ := w.Desired()
			var got []string
			for _, c := range state.Pools[0].Checks {
				got = append(got, strings.TrimPrefix(model.FormatEndpoint(netip.IPv4Unspecified(), c.Port), "0.0.0.0"))
				got[len(got)-1] = c.Type.String() + got[len(got)-1]
			}
			if !reflect.DeepEqual(got, row.want) {
				t.Errorf("checks %q, want %q", got, row.want)
			}
		})
	}
}

// Where ports are translated, backends are probed where they listen.
func TestInlineChecksOfTranslatedPorts(t *testing.T) {
	for _, mode := range []string{"nat", "fullnat"} {
		vip := web()
		vip.Mode = &mode
		w := newWorld(t)
		w.mustChange(t, addVIP(vip, &steelyardv1.BackendFields{Address: "10.0.1.10", Port: 8080}, &steelyardv1.BackendFields{Address: "10.0.1.10", Port: 8081}))
		state, _ := w.Desired()
		var probed []string
		for _, target := range health.Targets(state) {
			probed = append(probed, target.Check.Type.String()+" "+target.Endpoint().String())
		}
		if want := []string{"tcp 10.0.1.10:8080", "tcp 10.0.1.10:8081"}; !reflect.DeepEqual(probed, want) {
			t.Errorf("%s: %q is probed, want %q", mode, probed, want)
		}

		w = newWorld(t)
		w.mustChange(t, addVIP(vip, backends("10.0.1.10")...))
		if state, _ = w.Desired(); state.Pools[0].Checks[0].Port != 80 {
			t.Errorf("%s: of a backend without a port of its own %+v is probed", mode, state.Pools[0].Checks[0])
		}
		if want := map[string]model.Tracking{"nat": model.TrackingFlux, "fullnat": model.TrackingAlways}[mode]; state.VIPs[0].Tracking != want {
			t.Errorf("%s is tracked %s, want %s", mode, state.VIPs[0].Tracking, want)
		}
	}
}

func TestSetChangesOnlyWhatIsGiven(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10", "10.0.1.11")...), addPool("other", backends("10.0.2.10")...))
	before, _ := w.Desired()
	want := before.Clone()
	want.VIPs[0].Mode = model.ModeDSRL2
	want.VIPs[0].Tracking, want.VIPs[0].IdleTimeout = model.TrackingAlways, time.Hour
	want.VIPs[0].Affinity, want.VIPs[0].MSS = model.Affinity{Scope: model.AffinitySource, IPv4Prefix: 24, IPv6Prefix: 128}, 1400
	want.VIPs[0].Fragments = model.FragmentsHash
	pool, err := want.Pool("web")
	if err != nil {
		t.Fatal(err)
	}
	pool.OnAllDown = model.OnAllDownReset
	pool.DownGrace, pool.SlowStart = 0, time.Minute
	pool.Backends[0].Weight, pool.Backends[0].MaxConnections = 0, 500
	pool.Backends[1].ServerIDs = []model.ServerID{{Config: 0, ID: "\xc4\x60\x5e"}, {Config: 2, ID: "\x01"}}
	pool.Backends[1].State, pool.Backends[1].Drain = model.Draining, model.Drain{Since: w.now}
	pool.Checks[0].Fall = 7
	w.mustChange(t,
		setVIP(&steelyardv1.VIPFields{Name: "web", Mode: new("dsr-l2")}),
		setVIP(&steelyardv1.VIPFields{Name: "web", Tracking: new("always"), IdleTimeoutNanoseconds: new(int64(time.Hour))}),
		setVIP(&steelyardv1.VIPFields{Name: "web", Affinity: new("source"), AffinityIpv4Prefix: new(uint32(24)), Mss: new(uint32(1400))}),
		setVIP(&steelyardv1.VIPFields{Name: "web", Fragments: new("hash")}),
		setPool(&steelyardv1.PoolFields{Name: "web", OnAllDown: new("reset")}),
		setPool(&steelyardv1.PoolFields{Name: "web", DownGraceNanoseconds: new(int64(0)), SlowStartNanoseconds: new(int64(time.Minute))}),
		setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", Weight: new(uint32(0)), MaxConnections: new(uint32(500))}),
		setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.11", ServerIds: serverIDs("2:01", "0:C4605E")}),
		setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.11", State: new("draining")}),
		setCheck("web", &steelyardv1.CheckFields{Name: "tcp", Fall: new(uint32(7))}),
	)
	if got, _ := w.Desired(); !reflect.DeepEqual(got, want) {
		t.Errorf("state\n%+v, want\n%+v", got, want)
	}
}

func TestCheckTypeChangeStartsAfresh(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t,
		addPool("web", backends("10.0.1.10")...),
		addCheck("web", &steelyardv1.CheckFields{Name: "c", Type: new("http"), Port: new(uint32(80)), Status: new(uint32(204)), IntervalNanoseconds: new(int64(500 * time.Millisecond))}),
		setCheck("web", &steelyardv1.CheckFields{Name: "c", Type: new("tcp")}),
	)
	state, _ := w.Desired()
	want := model.Check{Name: "c", Type: model.CheckTCP, Port: 80, Interval: 500 * time.Millisecond, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 3}
	if got := state.Pools[0].Checks[0]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	w.mustChange(t, setCheck("web", &steelyardv1.CheckFields{Name: "c", Type: new("https")}))
	state, _ = w.Desired()
	if got := state.Pools[0].Checks[0].Path; got != "/" {
		t.Errorf("path %q", got)
	}
	w.mustChange(t, removeCheck("web", "c"))
	if state, _ = w.Desired(); len(state.Pools[0].Checks) != 0 {
		t.Errorf("checks %+v", state.Pools[0].Checks)
	}
}

func TestOnlyTheOutcomeIsJudged(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10")...))
	w.mustChange(t, removeBackend("web", "10.0.1.10"), addBackend("web", "10.0.1.11"))
	w.mustChange(t, removePool("web"), removeVIP("web"))
	if state, revision := w.Desired(); len(state.VIPs)+len(state.Pools) != 0 || revision != 3 {
		t.Errorf("revision %d: %+v", revision, state)
	}
}

func TestChangeErrors(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10")...), addPool("spare"))
	before, revision := w.Desired()
	for name, row := range map[string]struct {
		mutation *steelyardv1.Mutation
		code     connect.Code
		message  []string
	}{
		"pool in use": {removePool("web"), connect.CodeFailedPrecondition,
			[]string{`pool "web" is in use by VIP web`, "steelyard vip remove web"}},
		"last backend": {removeBackend("web", "10.0.1.10"), connect.CodeFailedPrecondition,
			[]string{`backend 10.0.1.10 is the last one of pool "web", which is in use by VIP web`, "steelyard backend drain web 10.0.1.10"}},
		"VIP exists":     {addVIP(web(), backends("10.0.1.9")...), connect.CodeAlreadyExists, []string{`VIP "web" exists already: 192.0.2.10:80/tcp`}},
		"pool exists":    {addPool("web"), connect.CodeAlreadyExists, []string{`pool "web" exists already`}},
		"backend exists": {addBackend("web", "10.0.1.10"), connect.CodeAlreadyExists, []string{`backend 10.0.1.10 is in pool "web" already`}},
		"check exists":   {addCheck("web", &steelyardv1.CheckFields{}), connect.CodeAlreadyExists, []string{`has a check "tcp" already`}},
		"inline pool exists": {addVIP(&steelyardv1.VIPFields{Name: "spare", Endpoints: endpoints("192.0.2.11:any")}, backends("10.0.1.9")...), connect.CodeAlreadyExists,
			[]string{"--pool spare"}},
		"unknown VIP":          {setVIP(&steelyardv1.VIPFields{Name: "wbe"}), connect.CodeNotFound, []string{`no VIP "wbe"; did you mean web?`}},
		"unknown pool":         {removePool("wbe"), connect.CodeNotFound, []string{`no pool "wbe"; did you mean web?`}},
		"unknown pool of VIP":  {setVIP(&steelyardv1.VIPFields{Name: "web", Pool: new("spar")}), connect.CodeNotFound, []string{`no pool "spar"; did you mean spare?`}},
		"unknown backend":      {removeBackend("web", "10.0.1.12"), connect.CodeNotFound, []string{`no backend "10.0.1.12" in pool "web"; did you mean 10.0.1.10?`}},
		"unknown check":        {removeCheck("web", "http"), connect.CodeNotFound, []string{`no check "http" in pool "web"`}},
		"backend without pool": {addBackend("wbe", "10.0.1.12"), connect.CodeNotFound, []string{`did you mean web?`}},
		"empty pool":           {setVIP(&steelyardv1.VIPFields{Name: "web", Pool: new("spare")}), connect.CodeInvalidArgument, []string{`pool "spare" has no backends`}},
		"no pool":              {addVIP(&steelyardv1.VIPFields{Name: "x", Endpoints: endpoints("192.0.2.11:any")}), connect.CodeInvalidArgument, []string{`VIP "x", pool: is missing`}},
		"bad words, all named": {setVIP(&steelyardv1.VIPFields{Name: "web", Protocol: new("tpc"), Mode: new("snat"), Mss: new(uint32(70000))}), connect.CodeInvalidArgument,
			[]string{"did you mean tcp?", `unknown forwarding mode "snat"; did you mean nat?`, "mss: 70000 is out of range"}},
		"port too high": {setVIP(&steelyardv1.VIPFields{Name: "web", Endpoints: []*steelyardv1.Endpoint{{Address: "192.0.2.10", FirstPort: 65536}}}), connect.CodeInvalidArgument,
			[]string{`VIP "web", endpoints: ports 65536 to 65536 of 192.0.2.10 are no range; want 1 to 65535`}},
		"range backwards": {setVIP(&steelyardv1.VIPFields{Name: "web", AddEndpoints: []*steelyardv1.Endpoint{{Address: "192.0.2.10", FirstPort: 90, LastPort: 80}}}), connect.CodeInvalidArgument,
			[]string{"ports 90 to 80 of 192.0.2.10 are no range"}},
		"range from 0": {setVIP(&steelyardv1.VIPFields{Name: "web", RemoveEndpoints: []*steelyardv1.Endpoint{{Address: "192.0.2.10", LastPort: 80}}}), connect.CodeInvalidArgument,
			[]string{"ports 0 to 80 of 192.0.2.10 are no range"}},
		"endpoint by name":   {setVIP(&steelyardv1.VIPFields{Name: "web", Endpoints: []*steelyardv1.Endpoint{{Address: "example.com"}}}), connect.CodeInvalidArgument, []string{`VIP "web", endpoints: "example.com" is not an address`}},
		"endpoint of nobody": {addVIP(&steelyardv1.VIPFields{Name: "x", Pool: new("web")}), connect.CodeInvalidArgument, []string{`VIP "x", endpoints: has none; give at least one`}},
		"last endpoint":      {setVIP(&steelyardv1.VIPFields{Name: "web", RemoveEndpoints: endpoints("192.0.2.10:80")}), connect.CodeInvalidArgument, []string{`VIP "web", endpoints: has none`}},
		"endpoint twice":     {setVIP(&steelyardv1.VIPFields{Name: "web", AddEndpoints: endpoints("192.0.2.10:80")}), connect.CodeInvalidArgument, []string{`VIP "web", endpoints: 192.0.2.10:80/tcp is given twice`}},
		"unknown endpoint":   {setVIP(&steelyardv1.VIPFields{Name: "web", RemoveEndpoints: endpoints("192.0.2.10:81")}), connect.CodeNotFound, []string{`no endpoint of VIP web "192.0.2.10:81"; did you mean 192.0.2.10:80?`}},
		"taken endpoint":     {addVIP(&steelyardv1.VIPFields{Name: "x", Endpoints: endpoints("192.0.2.11:80", "192.0.2.10:80"), Pool: new("web")}), connect.CodeInvalidArgument, []string{`VIP "x": overlaps VIP "web": both have 192.0.2.10:80/tcp`}},
		"bad affinity":       {setVIP(&steelyardv1.VIPFields{Name: "web", Affinity: new("src")}), connect.CodeInvalidArgument, []string{`VIP "web", affinity: unknown affinity "src"; want flow, source, pool`}},
		"prefix of 300 bits": {setVIP(&steelyardv1.VIPFields{Name: "web", AffinityIpv6Prefix: new(uint32(300))}), connect.CodeInvalidArgument, []string{"affinity_ipv6_prefix: 300 is out of range 1 to 128"}},
		"prefix of 33 bits":  {setVIP(&steelyardv1.VIPFields{Name: "web", AffinityIpv4Prefix: new(uint32(33))}), connect.CodeInvalidArgument, []string{"33 bits is out of range 1 to 32"}},
		"bad fragments":      {setVIP(&steelyardv1.VIPFields{Name: "web", Fragments: new("drop")}), connect.CodeInvalidArgument, []string{`VIP "web", fragments:`, "want follow, hash"}},
		"cookies of DSR":     {setVIP(&steelyardv1.VIPFields{Name: "web", SynCookies: new(uint32(100))}), connect.CodeInvalidArgument, []string{`VIP "web", syn_cookies: mode dsr-ipip does not see what backends answer, so the balancer cannot answer for them; use mode nat or fullnat, or 0`}},
		"MSS of udp":         {setVIP(&steelyardv1.VIPFields{Name: "web", Protocol: new("udp"), Mss: new(uint32(1400))}), connect.CodeInvalidArgument, []string{`mss: only tcp has one, this is udp`}},
		"ports of some": {addVIP(&steelyardv1.VIPFields{Name: "x", Endpoints: endpoints("192.0.2.11:80"), Mode: new("nat")}, &steelyardv1.BackendFields{Address: "10.0.1.7", Port: 8080}, &steelyardv1.BackendFields{Address: "10.0.1.8"}),
			connect.CodeInvalidArgument, []string{`pool "x", check "tcp", port: is needed: backend 10.0.1.8 has no port of its own`}},
		"fullnat in flux": {setVIP(&steelyardv1.VIPFields{Name: "web", Mode: new("fullnat")}), connect.CodeInvalidArgument, []string{`VIP "web", tracking: mode fullnat remembers every connection`, "use always"}},
		"QUIC over tcp":   {setVIP(&steelyardv1.VIPFields{Name: "web", Quic: new(true)}), connect.CodeInvalidArgument, []string{"quic: QUIC runs over udp, this is tcp"}},
		"bad server ID":   {setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", ServerIds: serverIDs("7:01")}), connect.CodeInvalidArgument, []string{`pool "web", backend 10.0.1.10, server_id: "7:01" is not a server ID`}},
		"bad tracking":    {setVIP(&steelyardv1.VIPFields{Name: "web", Tracking: new("fluks")}), connect.CodeInvalidArgument, []string{`VIP "web", tracking:`, "did you mean flux?"}},
		"idle too long":   {setVIP(&steelyardv1.VIPFields{Name: "web", IdleTimeoutNanoseconds: new(int64(25 * time.Hour))}), connect.CodeInvalidArgument, []string{"idle_timeout", "out of range 1s to 24h"}},
		"grace too long":  {setPool(&steelyardv1.PoolFields{Name: "web", DownGraceNanoseconds: new(int64(2 * time.Hour))}), connect.CodeInvalidArgument, []string{"down_grace"}},
		"slow backwards":  {setPool(&steelyardv1.PoolFields{Name: "web", SlowStartNanoseconds: new(int64(-1))}), connect.CodeInvalidArgument, []string{"slow_start"}},
		"bad address":     {addBackend("web", "10.0.1"), connect.CodeInvalidArgument, []string{`"10.0.1" is not an address`}},
		"two violations":  {addVIP(&steelyardv1.VIPFields{Name: "x", Endpoints: endpoints("224.0.0.1:any")}, backends("127.0.0.1")...), connect.CodeInvalidArgument, []string{"multicast", "loopback"}},
		"zero interval":   {addCheck("web", &steelyardv1.CheckFields{Name: "c", IntervalNanoseconds: new(int64(0)), Port: new(uint32(1))}), connect.CodeInvalidArgument, []string{"interval"}},
		"nothing":         {&steelyardv1.Mutation{}, connect.CodeInvalidArgument, []string{"empty"}},
		"nothing in it":   {&steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddVip{}}, connect.CodeInvalidArgument, []string{"pool: is missing"}},
		"nothing to set":  {&steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_SetBackend{}}, connect.CodeNotFound, []string{"no pool"}},
		"nothing to add":  {&steelyardv1.Mutation{Mutation: &steelyardv1.Mutation_AddPool{}}, connect.CodeInvalidArgument, []string{"is not a name"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.change(t, row.mutation)
			var answer *api.Error
			if !errors.As(err, &answer) || answer.Code != row.code {
				t.Fatalf("error %v, want code %v", err, row.code)
			}
			for _, part := range row.message {
				if !strings.Contains(answer.Message, part) {
					t.Errorf("message %q lacks %q", answer.Message, part)
				}
			}
		})
	}
	if after, now := w.Desired(); now != revision || !reflect.DeepEqual(after, before) {
		t.Errorf("errors changed revision %d to %d, state\n%+v to\n%+v", revision, now, before, after)
	}
}

func TestAllOrNothing(t *testing.T) {
	w := newWorld(t)
	if err := w.change(t, addPool("a", backends("10.0.1.1")...), addPool("a")); err == nil {
		t.Fatal("the second mutation must fail")
	}
	if state, revision := w.Desired(); revision != 0 || len(state.Pools) != 0 {
		t.Errorf("revision %d, pools %+v", revision, state.Pools)
	}
	w.mustChange(t, addPool("a", backends("10.0.1.1")...)) // the control
	if err := w.change(t); err == nil || !strings.Contains(err.Error(), "nothing to change") {
		t.Errorf("no mutations: %v", err)
	}
}

func TestRevisionConflict(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addPool("a"))
	request := &steelyardv1.ChangeRequest{ExpectedRevision: 7, Mutations: []*steelyardv1.Mutation{addPool("b")}}
	_, err := w.client.Change(t.Context(), request)
	var answer *api.Error
	if !errors.As(err, &answer) || answer.Code != connect.CodeAborted || !strings.Contains(answer.Message, "at revision 1, not 7") {
		t.Fatalf("error %v", err)
	}
	request.ExpectedRevision = 1
	if outcome, err := w.client.Change(t.Context(), request); err != nil || outcome.Revision != 2 {
		t.Errorf("outcome %+v, error %v", outcome, err)
	}
}

func TestStatusComesThroughWhole(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10")...))
	now := time.Unix(1_700_000_000, 123)
	var want model.Status
	w.Observe(func(s *model.Status) {
		s.Version, s.Started, s.Applied, s.Error = "1.2.3", now, 0, "no room"
		s.Interfaces = []model.InterfaceStatus{{Name: "eth1", Mode: "generic", Warning: "slow"}}
		s.VIPs[0].Available, s.VIPs[0].Counters = true, model.Counters{Packets: 1, Bytes: 2, Connections: 3}
		s.VIPs[0].InFlux, s.VIPs[0].Flows = true, 11
		s.Pools[0].SlotsInFlux = 12
		b := &s.Pools[0].Backends[0]
		b.Health, b.Since, b.Slots = model.HealthDown, now, 9
		b.MaxConnections, b.Counted, b.Full = 40, 41, true
		b.ServerIDs = []model.ServerID{{Config: 0, ID: "\xc4\x60\x5e"}, {Config: 6, ID: "0123456789abcde"}}
		s.VIPs[0].Endpoints = modelEndpoints("192.0.2.10:80", "192.0.2.10:8000-8100", "[2001:db8::10]:any")
		s.VIPs[0].Affinity, s.VIPs[0].Fragments = model.Affinity{Scope: model.AffinityPool, IPv4Prefix: 24, IPv6Prefix: 56}, model.FragmentsHash
		s.VIPs[0].MSS, s.VIPs[0].QUIC, s.VIPs[0].Mode, s.VIPs[0].SYNCookies = 1400, true, model.ModeDSRGUE, 5000
		b.NextHop = model.NextHop{Interface: "eth1", VLAN: 7, MAC: "02:00:00:00:00:01", Problem: "p"}
		b.Counters = model.Counters{Packets: 4, Bytes: 5, Connections: 6}
		b.State, b.Drain = model.Draining, model.Drain{Since: now, Deadline: now.Add(time.Minute), Remove: true}
		b.Flows, b.KeepsFlows, b.Named = 13, true, true
		b.Checks = []model.CheckStatus{{Name: "tcp", Health: model.HealthDown, Result: "L4CON", Detail: "connection refused",
			Since: now, Checked: now.Add(time.Second), Duration: time.Millisecond, Reason: "3 failed"}}
		s.Reasons = []model.Reason{{Name: "drop_fragment_early", Packets: 8}}
		s.Maps = []model.MapUse{{Name: "slots", Used: 1, Capacity: 2, Bytes: 3}}
		s.Flows = model.FlowTable{Live: 1, Capacity: 2, SlotsInFlux: 3, Sweeps: 4, Entries: 5, Took: 6,
			Remembered: 7, Evicted: 8, EvictedConnections: 9, Unremembered: 10}
		s.NAT = model.NATPorts{Used: 1, Capacity: 2, Opened: 3, Evicted: 4, Exhausted: 5}
		s.Fragments = model.FragmentTable{Remembered: 11, Evicted: 12}
		want = *s
	})
	got, err := w.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("status\n%+v, want\n%+v", got, want)
	}
}

func TestPlainJSON(t *testing.T) {
	w := newWorld(t)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.path)
	}}}
	post := func(method, body string) (int, string) {
		response, err := client.Post("http://steelyard/steelyard.v1.Steelyard/"+method, "application/json", bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	code, body := post("Change", `{"mutations": [{"add_vip": {"vip": {"name": "web", "endpoints": [{"address": "2001:db8::1", "first_port": 80}, {"address": "192.0.2.1"}]}, "backends": [{"address": "2001:db8:1::1"}]}}]}`)
	if code != http.StatusOK || !strings.Contains(body, `"revision":"1"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body = post("Get", "{}"); code != http.StatusOK || !strings.Contains(strings.ReplaceAll(body, " ", ""), `"endpoints":[{"address":"192.0.2.1"},{"address":"2001:db8::1","firstPort":80,"lastPort":80}]`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body = post("Change", `{"mutations": [{"remove_vip": "wbe"}]}`); code != http.StatusNotFound || !strings.Contains(body, "did you mean web?") {
		t.Errorf("%d %s", code, body)
	}
}

func TestEndpoints(t *testing.T) {
	w := newWorld(t)
	w.mustChange(t, addVIP(web(), backends("10.0.1.10")...))
	for _, row := range []struct {
		set  *steelyardv1.VIPFields
		want string
	}{
		{&steelyardv1.VIPFields{AddEndpoints: endpoints("192.0.2.10:443", "[2001:db8::10]:80")}, "[192.0.2.10:80 192.0.2.10:443 [2001:db8::10]:80]"},
		{&steelyardv1.VIPFields{RemoveEndpoints: endpoints("192.0.2.10:80"), AddEndpoints: endpoints("192.0.2.10:80-90")}, "[192.0.2.10:80-90 192.0.2.10:443 [2001:db8::10]:80]"},
		{&steelyardv1.VIPFields{Mode: new("dsr-gue")}, "[192.0.2.10:80-90 192.0.2.10:443 [2001:db8::10]:80]"},
		{&steelyardv1.VIPFields{Endpoints: endpoints("192.0.2.11:any"), AddEndpoints: endpoints("192.0.2.11:80")}, "[192.0.2.11:any 192.0.2.11:80]"},
		{&steelyardv1.VIPFields{Endpoints: endpoints("192.0.2.12:80")}, "[192.0.2.12:80]"},
	} {
		row.set.Name = "web"
		w.mustChange(t, setVIP(row.set))
		if state, _ := w.Desired(); fmt.Sprint(state.VIPs[0].Endpoints) != row.want {
			t.Errorf("%v leads to %v, want %s", row.set, state.VIPs[0].Endpoints, row.want)
		}
	}
}

// A VIP that starts to carry QUIC is tracked as it was: what its tracking was given
// for is not known.
func TestQUICAndTracking(t *testing.T) {
	w := newWorld(t)
	quic := web()
	quic.Name, quic.Protocol, quic.Quic = "quic", new("udp"), new(true)
	plain := web()
	plain.Name, plain.Protocol, plain.Endpoints = "plain", new("udp"), endpoints("192.0.2.11:443")
	w.mustChange(t, addVIP(quic, backends("10.0.1.10")...), addVIP(plain, backends("10.0.1.10")...))
	w.mustChange(t, setVIP(&steelyardv1.VIPFields{Name: "plain", Quic: new(true)}))
	state, _ := w.Desired()
	if plain, quic := state.VIPs[0], state.VIPs[1]; quic.Tracking != model.TrackingFlux || !plain.QUIC || plain.Tracking != model.TrackingAlways {
		t.Errorf("added as QUIC: %s; set to it: %s", quic.Tracking, plain.Tracking)
	}
}

func TestServerIDsOfBackends(t *testing.T) {
	w := newWorld(t)
	b := backends("10.0.1.10", "10.0.1.11")
	b[0].ServerIds = serverIDs("0:c4605e")
	w.mustChange(t, addPool("web", b...))
	ids := func() string {
		state, _ := w.Desired()
		return fmt.Sprint(state.Pools[0].Backends[0].ServerIDs)
	}
	for _, row := range []struct {
		set  *steelyardv1.ServerIDs
		want string
	}{{nil, "[0:c4605e]"}, {serverIDs("1:01", "0:02"), "[0:02 1:01]"}, {serverIDs(), "[]"}} {
		w.mustChange(t, setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", ServerIds: row.set}))
		if got := ids(); got != row.want {
			t.Errorf("%v leads to %s, want %s", row.set, got, row.want)
		}
	}
	w.mustChange(t, setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.10", ServerIds: serverIDs("1:01")}))
	if err := w.change(t, setBackend("web", &steelyardv1.BackendFields{Address: "10.0.1.11", ServerIds: serverIDs("1:01")})); err == nil ||
		!strings.Contains(err.Error(), "1:01 is that of backend 10.0.1.10 already") {
		t.Errorf("a server ID of two: %v", err)
	}
}
