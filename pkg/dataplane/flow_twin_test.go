package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/flux"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// flowKey is set in every key of the flow table; see FLOW_KEY in bpf/maps.h.
const flowKey = 2

// hash is the hash of a flow of [fluxRig.frame].
func (r *fluxRig) hash(flow uint32) uint64 {
	v := &r.desired.VIPs[0]
	source := 0xc6336400 + flow>>12
	return r.plane.seed.Hash(Flow{
		Source: netip.AddrPortFrom(
			netip.AddrFrom4([4]byte{byte(source >> 24), byte(source >> 16), byte(source >> 8), byte(source)}),
			uint16(10000+flow&0xfff)),
		Destination: netip.AddrPortFrom(v.Endpoints[0].Address, v.Endpoints[0].Ports.First), Protocol: v.Protocol,
	})
}

// sealed is the entry of a flow by its hash.
func sealed(hash, state uint64) lbFlow {
	return lbFlow{Key: sealFlow(hash|flowKey, state), State: state}
}

// encodeState is the inverse of [decodeFlow].
func encodeState(e flux.Entry, vip uint32) uint64 {
	flags := lbFlowFlag(0)
	if e.Essential {
		flags |= lbFlowFlagFLOW_ESSENTIAL
	}
	if e.Confirmed {
		flags |= lbFlowFlagFLOW_CONFIRMED
	}
	if e.Closing {
		flags |= lbFlowFlagFLOW_CLOSING
	}
	return uint64(e.Seen&flowTickMask) | uint64(e.Backend)<<flowBackendShift | uint64(vip)<<flowVIPShift | uint64(flags)<<flowFlagsShift
}

// pair is a flow table of two buckets, next door to each other.
type pair [2 * flowsPerBucket]lbFlow

// places are the indexes where the entry of a hash may be, those at home first.
func (*pair) places(hash uint64) []int {
	var places []int
	home := int(hash >> 2 & 1)
	for _, bucket := range []int{home, home ^ 1} {
		for i := range flowsPerBucket {
			places = append(places, bucket*flowsPerBucket+i)
		}
	}
	return places
}

// twin holds what a table is before a packet, as Go sees it.
type twin struct {
	*fluxRig
	*rand.Rand
	tracks bool
	// kinds are what packets may be, in terms of TCP.
	kinds []byte
	idle  flux.Tick
	able  map[uint32]flux.Ability
	// indexes of backends records, and which backends they are.
	indexes []uint32
	prior   *place
	at      *place
	vip     uint32
}

// The rules that the twin compares; the control alters one of them.
type flowRules struct {
	route func(flux.Choice, *flux.Entry, flux.Packet, flux.Tick, func(uint32) flux.Ability) (uint32, flux.Entry)
	rank  func(flux.Entry, flux.Tick, flux.Tick) flux.Rank
}

const twinBackends = 6

func newTwin(t *testing.T, tracking model.Tracking, protocol model.Protocol, seed uint64) *twin {
	w := &twin{
		fluxRig: newFluxRig(t, tracking, protocol), Rand: rand.New(rand.NewPCG(seed, seed)),
		able: map[uint32]flux.Ability{}, kinds: []byte{syn, ack, fin, icmpError},
	}
	if protocol == model.UDP {
		w.desired.VIPs[0].QUIC, w.kinds = true, []byte{syn, ack, icmpError}
	}
	w.plane = loaded(t, Limits{VIPs: 16, Pools: 16, Backends: 256, Slots: 1 << 16, Flows: 2 * flowsPerBucket})
	w.plane.SetClock(w.now)
	for n := 1; n <= twinBackends; n++ {
		w.add(0, n)
		w.add(1, n)
	}
	w.apply()
	w.desired.VIPs[0].Pool = "b"
	w.apply()
	v := w.plane.applied.vips["web"]
	w.tracks, w.idle, w.vip, w.at, w.prior = tracking == model.TrackingAlways, v.idle+1, v.id, v.place, v.prior
	for _, at := range []*place{w.prior, w.at} {
		for _, owner := range at.owners {
			w.indexes = append(w.indexes, at.base()+owner)
		}
	}
	slices.Sort(w.indexes)
	return w
}

// scene makes time, abilities and the table random; returns the table.
func (w *twin) scene() pair {
	w.now = flux.Tick(w.Uint32())
	w.plane.SetClock(w.now)
	for _, index := range w.indexes {
		a := []flux.Ability{0, flux.KeepsFlows, flux.KeepsFlows | flux.TakesFlows}[w.IntN(3)]
		w.able[index] = a
		w.plane.backends.elements[index].Able = uint8(a)
	}
	var b pair
	for i, f := range w.Perm(2 * len(b))[:len(b)] {
		if w.IntN(16) == 0 {
			continue
		}
		// Now and then two are of one age, or one has idled out, or is of a tick to come.
		age := []flux.Tick{0, flux.RefreshAge - 1, flux.RefreshAge, w.idle - 1, w.idle, flux.Tick(w.IntN(60)) - 1}[w.IntN(6)]
		e := flux.Entry{
			Backend: w.indexes[w.IntN(len(w.indexes))], Seen: (w.now - age) & flowTickMask,
			Essential: w.tracks || w.IntN(2) == 0, Confirmed: w.IntN(2) == 0, Closing: w.IntN(4) == 0,
		}
		b[i] = sealed(w.hash(uint32(f)), encodeState(e, w.vip))
	}
	return b
}

// expect is where a packet goes by the rules in Go, and what the table is then.
func (w *twin) expect(rules flowRules, b pair, flow uint32, p flux.Packet) (uint32, pair) {
	hash := w.hash(flow)
	c := flux.Choice{
		Owner: w.at.base() + w.at.table.Words()[Slot(hash, w.at.slots)].Owner(),
		Prior: w.prior.base() + w.prior.table.Words()[Slot(hash, w.prior.slots)].Prior(),
	}
	var known *flux.Entry
	place := slices.IndexFunc(b[:], func(e lbFlow) bool { return sealFlow(e.Key, e.State) == hash|flowKey })
	if place >= 0 {
		known = &flux.Entry{}
		*known = decodeFlow(b[place].Key, b[place].State).Entry
	}
	to, next := rules.route(c, known, p, w.now, func(backend uint32) flux.Ability { return w.able[backend] })
	if p.About {
		return to, b
	}
	next.Seen &= flowTickMask
	if known == nil {
		next.Essential = next.Essential || w.tracks
		place = w.victim(rules, &b, hash, next)
	}
	if place >= 0 {
		b[place] = sealed(hash, encodeState(next, w.vip))
	}
	return to, b
}

// victim is the place that gives way to an entry, -1 if none does.
func (w *twin) victim(rules flowRules, b *pair, hash uint64, next flux.Entry) int {
	highest := flux.RankPrior
	if next.Essential {
		highest = flux.RankEmbryonic
	}
	if next.Essential && next.Confirmed {
		highest = flux.RankConnection
	}
	found, lowest, oldest := -1, highest+1, flux.Tick(0)
	for _, i := range b.places(hash) {
		e := b[i]
		if e.Key == 0 {
			return i
		}
		f := decodeFlow(e.Key, e.State)
		rank, age := rules.rank(f.Entry, w.now, w.idle), flux.Age(w.now, f.Seen)
		if age > flowTickMask/2 {
			age = 0
		}
		if rank < lowest || found >= 0 && rank == lowest && age > oldest {
			found, lowest, oldest = i, rank, age
		}
	}
	return found
}

func (w *twin) set(b pair) {
	for i := range b {
		w.plane.flows.elements[i/flowsPerBucket].Flow[i%flowsPerBucket] = b[i]
	}
}

func (w *twin) table() (b pair) {
	for i := range b {
		b[i] = w.plane.flows.elements[i/flowsPerBucket].Flow[i%flowsPerBucket]
	}
	return b
}

// disagreements runs random packets through C and through rules in Go.
func (w *twin) disagreements(rules flowRules, cases int) int {
	n := 0
	for range cases {
		before := w.scene()
		w.set(before)
		flow := uint32(w.IntN(2 * len(before)))
		flags := w.kinds[w.IntN(len(w.kinds))]
		want, after := w.expect(rules, before, flow, flux.Packet{
			Opener: flags == syn, Closer: flags == fin, About: flags == icmpError, Again: w.desired.VIPs[0].QUIC,
		})
		to := w.send(flow, flags)
		backend := netip.AddrFrom4([4]byte{10, 0, byte(to >> 8), byte(to)})
		at := w.plane.placeOf(want)
		owner, known := at.owners[model.BackendID{Address: backend}]
		if known && at.base()+owner == want && w.table() == after {
			continue
		}
		if n++; n == 1 {
			w.Logf("flow %d, flags %#x: to %v, want %d; of %x\nbecame %x\nwant   %x", flow, flags, backend, want, before, w.table(), after)
		}
	}
	return n
}

// TestFlowTwins: bpf/flow.h and pkg/flux are one rule.
func TestFlowTwins(t *testing.T) {
	t.Parallel()
	for _, tracking := range []model.Tracking{model.TrackingFlux, model.TrackingAlways} {
		for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
			w := newTwin(t, tracking, protocol, 7)
			if n := w.disagreements(flowRules{flux.Route, flux.RankOf}, 20_000); n > 0 {
				t.Errorf("tracking %v, %v: C and Go disagree %d times", tracking, protocol, n)
			}
		}
	}
}

// The controls: rules that differ a little.
func TestFlowTwinsDisagree(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]flowRules{
		"openers follow draining backends": {func(c flux.Choice, e *flux.Entry, p flux.Packet, now flux.Tick, able func(uint32) flux.Ability) (uint32, flux.Entry) {
			return flux.Route(c, e, p, now, func(b uint32) flux.Ability {
				if able(b)&flux.KeepsFlows != 0 {
					return flux.KeepsFlows | flux.TakesFlows
				}
				return 0
			})
		}, flux.RankOf},
		"errors count as packets": {func(c flux.Choice, e *flux.Entry, p flux.Packet, now flux.Tick, able func(uint32) flux.Ability) (uint32, flux.Entry) {
			to, next := flux.Route(c, e, p, now, able)
			if p.About && e != nil && e.Backend != to {
				to = e.Backend
			}
			return to, next
		}, flux.RankOf},
		"QUIC is like TCP": {func(c flux.Choice, e *flux.Entry, p flux.Packet, now flux.Tick, able func(uint32) flux.Ability) (uint32, flux.Entry) {
			p.Again = false
			return flux.Route(c, e, p, now, able)
		}, flux.RankOf},
		"entries idle out a tick later": {flux.Route, func(e flux.Entry, now, idle flux.Tick) flux.Rank {
			return flux.RankOf(e, now, idle+1)
		}},
		"clocks never differ": {flux.Route, func(e flux.Entry, now, idle flux.Tick) flux.Rank {
			if flux.Age(now, e.Seen) >= idle {
				return flux.RankExpired
			}
			return flux.RankOf(e, now, idle)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			protocol := model.TCP
			if name == "QUIC is like TCP" {
				protocol = model.UDP
			}
			if newTwin(t, model.TrackingFlux, protocol, 7).disagreements(rules, 3000) == 0 {
				t.Error("no disagreement: the test shows nothing")
			}
		})
	}
}
