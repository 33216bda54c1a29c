package dataplane

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// The ports of services that only the fuzzer has.
const (
	portFlux       = 110
	portFluxTunnel = 111
	portTracked    = 112
	portUntracked  = 113
	portMoved      = 114
	portGUE        = 115
	portGUEAcross  = 116
	portSource     = 117
	portPool       = 118
	portReaffine   = 119
	portMSS        = 120
	portQUIC       = 121
	portQUICMoved  = 122
	portHash       = 123
	portRange      = 124
)

// fuzzService is a VIP for TCP and one for UDP, with a pool of their own.
type fuzzService struct {
	port uint16
	model.VIP
	// across: backends are of the other family.
	across bool
	// settled: nothing happens to it; moves: the VIPs change their pool, instead of
	// the pool its table.
	settled, moves bool
}

func fuzzServices() []fuzzService {
	l2, ipip, gue := model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE
	by := func(scope model.AffinityScope) model.Affinity {
		return model.Affinity{Scope: scope, IPv4Prefix: 24, IPv6Prefix: 120}
	}
	return []fuzzService{
		{port: portFlux, VIP: model.VIP{Mode: l2, Tracking: model.TrackingFlux}},
		{port: portFluxTunnel, VIP: model.VIP{Mode: ipip, Tracking: model.TrackingFlux}},
		{port: portTracked, VIP: model.VIP{Mode: ipip, Tracking: model.TrackingAlways}},
		{port: portUntracked, VIP: model.VIP{Mode: l2, Tracking: model.TrackingNone}},
		{port: portMoved, VIP: model.VIP{Mode: gue, Tracking: model.TrackingAlways}, moves: true},
		{port: portGUE, VIP: model.VIP{Mode: gue}, settled: true},
		{port: portGUEAcross, VIP: model.VIP{Mode: gue}, settled: true, across: true},
		{port: portSource, VIP: model.VIP{Mode: l2, Affinity: by(model.AffinitySource)}, settled: true},
		{port: portPool, VIP: model.VIP{Mode: gue, Tracking: model.TrackingFlux, Affinity: by(model.AffinityPool)}},
		{port: portReaffine, VIP: model.VIP{Mode: l2, Tracking: model.TrackingAlways, Affinity: by(model.AffinitySource)}, settled: true},
		{port: portMSS, VIP: model.VIP{Protocol: model.TCP, Mode: ipip, MSS: 1000}, settled: true},
		{port: portQUIC, VIP: model.VIP{Protocol: model.UDP, Mode: l2, QUIC: true, Tracking: model.TrackingFlux}},
		{port: portQUICMoved, VIP: model.VIP{Protocol: model.UDP, Mode: gue, QUIC: true, Tracking: model.TrackingFlux}, moves: true},
		{port: portHash, VIP: model.VIP{Mode: l2, Fragments: model.FragmentsHash}, settled: true},
		{port: portRange, VIP: model.VIP{Mode: ipip, Tracking: model.TrackingFlux}},
	}
}

// fuzzState is the lab's state with the fuzzer's services, before or after what
// brings them in flux.
func fuzzState(services []service, options Options, after bool) forwarding.State {
	state := stateOf(services)
	for _, f := range families() {
		for _, s := range fuzzServices() {
			s.addTo(&state, f, after)
		}
	}
	for address, path := range state.Paths {
		for _, spread := range []netip.Prefix{options.SourceIPv4, options.SourceIPv6} {
			if spread.IsValid() && path.Outer.IsValid() && path.Outer.Is4() == spread.Addr().Is4() {
				path.Outer = spread.Addr()
			}
		}
		state.Paths[address] = path
	}
	slices.SortFunc(state.VIPs, func(a, b model.VIP) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(state.Pools, func(a, b forwarding.Pool) int { return strings.Compare(a.Name, b.Name) })
	if !options.Screening {
		addFuzzGuards(&state)
	}
	return state
}

// addTo adds the VIPs and their pools.
func (s fuzzService) addTo(state *forwarding.State, f family, after bool) {
	pool := s.pool(state, f, fmt.Sprintf("%s-%d", f.name, s.port), after)
	if s.moves {
		other := s.pool(state, f, pool+"-moved", after)
		if after {
			pool = other
		}
	}
	for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
		if s.Protocol != 0 && s.Protocol != protocol {
			continue
		}
		v := s.VIP
		v.Name, v.Endpoints, v.Protocol, v.Pool, v.IdleTimeout = fmt.Sprintf("%s-%d-%s", f.name, s.port, protocol), listen(f.vip, s.port), protocol, pool, 10*time.Second
		if s.port == portReaffine && !after {
			v.Affinity = model.DefaultAffinity()
		}
		if s.port == portRange {
			v.Endpoints = []model.Endpoint{
				{Address: f.vip, Ports: model.PortRange{First: 30000, Last: 30099}},
				{Address: f.vip, Ports: model.PortRange{First: 30200, Last: 30200}},
				{Address: f.wide, Ports: model.PortRange{First: 30050, Last: 40000}},
			}
		}
		state.VIPs = append(state.VIPs, v)
	}
}

// pool adds a pool of three backends and returns its name. The first two own the
// slots before, the last two after, when the first is drained.
func (s fuzzService) pool(state *forwarding.State, f family, name string, after bool) string {
	home := f
	if s.across {
		home = families()[0]
		if !f.ipv6 {
			home = families()[1]
		}
	}
	var backends []netip.Addr
	for n := range 3 {
		address := home.host(s.port, 30+10*n+len(name)+hostNumber(f))
		backends = append(backends, address)
		state.Paths[address] = forwarding.Path{
			Link: loopback, OnLink: true, MTU: mtu, Outer: home.balancer,
			Source: balancerMAC(), Destination: mac{0x02, 0, byte(len(name)), byte(hostNumber(f)), byte(0x20 + n), byte(s.port)},
		}
	}
	pool := settledPool(name, 251, backends...)
	for n := range pool.Backends {
		pool.Backends[n].ServerIDs = serverIDs(n)
	}
	if after && !s.settled {
		pool.Backends[0].Takes = false
		pool.Members = pool.Members[1:]
	} else {
		pool.Members = pool.Members[:2]
	}
	pool.Table = inTurn(pool.Slots, 2)
	state.Pools = append(state.Pools, pool)
	return name
}

// serverIDs name the nth backend of any pool.
func serverIDs(n int) []model.ServerID {
	return []model.ServerID{{Config: 0, ID: string([]byte{0xb0, byte(n)})}, {Config: 5, ID: string(bytes.Repeat([]byte{byte(n)}, model.MaxServerIDLength))}}
}

// quicSeeds are the heads of QUIC packets, with connection IDs that name a backend
// and others.
func quicSeeds() [][]byte {
	var all [][]byte
	for n := range 4 {
		for _, id := range serverIDs(n) {
			cid := slices.Concat([]byte{id.Config<<5 | 7}, []byte(id.ID), []byte{0xaa, 0xbb})
			all = append(all, slices.Concat([]byte{0x40}, cid, text(30)))
			for _, head := range [][]byte{{0xc0, 0, 0, 0, 1}, {0xe0, 0, 0, 0, 1}, {0xd0, 0x6b, 0x33, 0x43, 0xcf}, {0x80, 0x1a, 0x2a, 0x3a, 0x4a}} {
				all = append(all, slices.Concat(head, []byte{byte(len(cid))}, cid, []byte{0}, text(30)))
			}
		}
	}
	return all
}

// fuzzLab is a lab that is never settled, with an oracle for it and what it has
// counted so far. It is used from one goroutine, on a thread in its namespace.
type fuzzLab struct {
	*lab
	oracle oracle
	tally  tally
	seeds  []trial
	// splits: the kernel puts as little as it is told in the first buffer (Linux 6.18).
	splits bool
	// out is room for a frame; keys and counts for the counters of all CPUs.
	out    []byte
	keys   []uint32
	counts []uint64
	totals []uint64
	now    flux.Tick
}

// longestFrame of a trial, and room for what may be put before it.
const longestFrame = 9000

// unlimited is a rate of ICMP answers that no test run reaches.
const unlimited = 1_000_000_000

// fuzzOptions are the ways in which the program is loaded: as a daemon that is told
// nothing does it, and with all that it may be told.
func fuzzOptions() []Options {
	return []Options{
		{Seed: testSeed(), ICMPRate: 1000, Screening: true},
		{
			Seed: testSeed(), Screening: true, ICMPRate: unlimited, GUEPort: 7000, GUEChecksum: true,
			SourceIPv4: netip.MustParsePrefix("10.9.0.0/18"), SourceIPv6: netip.MustParsePrefix("2001:db8:9::/64"),
		},
		testOptions(), // without screening, but with source lists
	}
}

func newFuzzLab(t testing.TB, options Options) *fuzzLab {
	t.Helper()
	l := &lab{space: newSpace(t)}
	out := l.veth(t, "out", "outpeer")
	l.services = services(out)
	// Few flows and fragments, so that they give way.
	l.Plane = loadedWith(t, Limits{
		VIPs: 256, Endpoints: 256, Pools: 128, Backends: 2048, Slots: 1 << 16, Flows: 4096, Fragments: 256, SourceLists: 2,
	}, options)
	before, after := fuzzState(l.services, options, false), fuzzState(l.services, options, true)
	for _, state := range []forwarding.State{before, after} {
		if err := l.do(func() error { return l.Apply(state) }); err != nil {
			t.Fatal(err)
		}
	}
	f := &fuzzLab{
		lab: l, oracle: newOracle(options, []int{loopback, out}, before, after), seeds: seedsOf(l),
		out:    make([]byte, longestFrame+1024),
		keys:   make([]uint32, len(l.Plane.reasons)),
		counts: make([]uint64, len(l.Plane.reasons)*ebpf.MustPossibleCPU()),
		totals: make([]uint64, len(l.Plane.reasons)),
	}
	f.splits = f.canSplit()
	if err := f.begin(); err != nil {
		t.Fatal(err)
	}
	return f
}

// begin has everything counted from here.
func (l *fuzzLab) begin() error {
	if _, err := l.moved(); err != nil {
		return err
	}
	c, err := l.Counters()
	l.tally = tallyOf(c)
	return err
}

// canSplit asks the kernel, with a frame that is nobody's.
func (l *fuzzLab) canSplit() bool {
	_, err := l.Program().Run(&ebpf.RunOptions{
		Data: make([]byte, 100), DataOut: l.out, Context: xdpContext{DataEnd: headerEthernet, Ingress: loopback},
	})
	return err == nil
}

// seedsOf are the rows of the packet table, and flows to what is in flux.
func seedsOf(l *lab) []trial {
	var all []trial
	for _, r := range l.rows() {
		s := trial{frame: r.in, origin: r.name, ingress: loopback}
		if r.context != nil {
			s.metadata, s.ingress = int(r.context.Data), int(r.context.Ingress)
			s.frame = s.frame[s.metadata:]
		}
		all = append(all, s)
	}
	for _, f := range families() {
		for _, carried := range fuzzPayloads() {
			p := f.packet(carried)
			add := func(origin string) {
				all = append(all, trial{frame: p.bytes(), origin: f.name + "/" + origin, ingress: loopback})
			}
			add("fuzz")
			p.id = 77
			for origin, bits := range map[string]uint16{"first fragment": 0x2000, "later fragment": 0x2003} {
				if p.fragment = bits; f.ipv6 {
					p.extensions = []extension{fragmentHeader(bits&0x1fff, true)}
				}
				add(origin)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b trial) int {
		return cmp.Or(strings.Compare(a.origin, b.origin), bytes.Compare(a.frame, b.frame))
	})
	for i := range all {
		all[i].frame = all[i].frame[:min(len(all[i].frame), longestFrame)]
	}
	return all
}

// fuzzPayloads are what flows to the fuzzer's services carry.
func fuzzPayloads() []payload {
	var all []payload
	mss := []byte{1, 2, 4, 5, 0xb4, 4, 2, 0}
	for _, s := range fuzzServices() {
		all = append(all,
			tcp{from: 5000, to: s.port, flags: flagSYN, options: mss}, tcp{from: 5000, to: s.port, flags: flagACK, data: text(40)},
			tcp{from: 5000, to: s.port, flags: flagACK | flagFIN}, udp{from: 5000, to: s.port, data: text(40)})
		if s.QUIC {
			for _, data := range quicSeeds() {
				all = append(all, udp{from: 5000, to: s.port, data: data})
			}
		}
	}
	return all
}

// firstBuffer is how much of a frame a test run puts in the first buffer if it is
// not told: a page less headroom and the kernel's own.
const firstBuffer = 4096 - 256 - 320

// mostMetadata is what fits before a frame in the 256 bytes that a test run leaves
// there, of which the kernel keeps 40 for itself.
const mostMetadata = 256 - 40

// run puts a trial through the program.
func (l *fuzzLab) run(t trial) (outcome, error) {
	opts := ebpf.RunOptions{Data: t.frame, DataOut: l.out}
	if t.metadata != 0 {
		opts.Data = slices.Concat(make([]byte, t.metadata), t.frame)
	}
	if t.metadata != 0 || t.ingress != loopback || t.near != min(len(t.frame), firstBuffer) {
		opts.Context = xdpContext{Data: uint32(t.metadata), DataEnd: uint32(t.metadata + t.near), Ingress: uint32(t.ingress)}
	}
	verdict, err := l.Program().Run(&opts)
	if err != nil {
		return outcome{}, fmt.Errorf("run: %w", err)
	}
	reasons, err := l.moved()
	return outcome{verdict, reasons, opts.DataOut[min(t.metadata, len(opts.DataOut)):]}, err
}

// moved tells which reasons have been counted since it was last asked.
func (l *fuzzLab) moved() ([]string, error) {
	var cursor ebpf.MapBatchCursor
	n, err := l.maps.Reasons.BatchLookup(&cursor, l.keys, l.counts, nil)
	if n != len(l.keys) {
		return nil, fmt.Errorf("read the reasons: %d of %d: %w", n, len(l.keys), err)
	}
	var names []string
	cpus := len(l.counts) / len(l.keys)
	for i, key := range l.keys {
		sum := uint64(0)
		for _, c := range l.counts[i*cpus : (i+1)*cpus] {
			sum += c
		}
		for ; l.totals[key] < sum; l.totals[key]++ {
			names = append(names, l.Plane.reasons[key])
		}
	}
	return names, nil
}

// try runs a trial and judges what comes out.
func (l *fuzzLab) try(t trial) (judgement, error) {
	out, err := l.run(t)
	if err != nil {
		return judgement{}, err
	}
	j, err := l.oracle.judge(t, out)
	if err != nil {
		return j, err
	}
	vip, err := l.countedBy(j)
	l.tally.add(j, vip)
	return j, err
}

// countedBy tells which of the VIPs that it may be has counted the packet.
func (l *fuzzLab) countedBy(j judgement) (string, error) {
	switch len(j.vips) {
	case 0:
		return "", nil
	case 1:
		return j.vips[0].Name, nil
	}
	for _, v := range j.vips {
		if now := l.vipCounters.sum(l.Plane.applied.vips[v.Name].id); now == plus(l.tally.vips[v.Name], j.one) {
			return v.Name, nil
		}
	}
	return "", fmt.Errorf("%s: none of %d VIPs counts the packet", j.reason, len(j.vips))
}

// checkCounts checks all counters against what they should say.
func (l *fuzzLab) checkCounts() error {
	c, err := l.Counters()
	if err != nil {
		return err
	}
	return l.tally.check(c)
}
