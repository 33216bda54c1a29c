package dataplane

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// trial is one packet for the program, and how the driver hands it over.
type trial struct {
	number uint64
	frame  []byte
	// metadata is how many bytes of it stand before the frame, near how many bytes
	// of the frame are in the first buffer, ingress where it comes from.
	metadata, near, ingress int
	// origin tells what it was made of.
	origin string
}

func (t trial) String() string {
	return fmt.Sprintf("case %d, %s: %d bytes, %d of them in the first buffer, behind %d of metadata, from interface %d\n%x",
		t.number, t.origin, len(t.frame), t.near, t.metadata, t.ingress, t.frame)
}

// outcome is what the program made of a trial.
type outcome struct {
	verdict uint32
	// reasons that were counted, each as often as it was.
	reasons []string
	frame   []byte
}

// candidate is a backend that a packet may be sent to, for a VIP.
type candidate struct {
	vip  *model.VIP
	key  BackendKey
	path *forwarding.Path
}

// serviceKey is an address and a protocol on which VIPs have ports.
type serviceKey struct {
	address  netip.Addr
	protocol model.Protocol
}

// listener is an endpoint of a VIP's.
type listener struct {
	model.Endpoint
	vip *model.VIP
}

// oracle knows what the balancer was told, and judges what it does by that alone.
type oracle struct {
	options   Options
	addresses map[netip.Addr]bool
	// listeners of a service, those whose ports say more first.
	listeners map[serviceKey][]listener
	servers   map[serviceKey]servers
	pools     map[string]forwarding.Pool
	paths     map[netip.Addr]forwarding.Path
	// links are the interfaces that there are.
	links []int
	// former has the pools of each VIP on which flows may be from before it, its
	// pool or its affinity went in flux.
	former map[string][]forwarding.Pool
	rules  map[string]rule
}

// newOracle knows a state and the one before it.
func newOracle(options Options, links []int, before, state forwarding.State) oracle {
	o := oracle{
		options: options, links: links, rules: rules(), paths: state.Paths,
		addresses: map[netip.Addr]bool{}, listeners: map[serviceKey][]listener{}, servers: map[serviceKey]servers{},
		pools: map[string]forwarding.Pool{}, former: map[string][]forwarding.Pool{},
	}
	for _, p := range state.Pools {
		o.pools[p.Name] = p
	}
	for i := range state.VIPs {
		v := &state.VIPs[i]
		for _, e := range v.Endpoints {
			key := serviceKey{e.Address, v.Protocol}
			o.addresses[e.Address] = true
			o.listeners[key] = append(o.listeners[key], listener{e, v})
		}
		was := before.VIPs[slices.IndexFunc(before.VIPs, func(w model.VIP) bool { return w.Name == v.Name })]
		former, now := before.Pool(was.Pool), o.pools[v.Pool]
		if remembers(v) && (former.Name != now.Name || !slices.Equal(former.Members, now.Members) || was.Affinity != v.Affinity) {
			o.former[v.Name] = append(o.former[v.Name], *former)
		}
	}
	for key, all := range o.listeners {
		slices.SortStableFunc(all, func(a, b listener) int { return cmp.Compare(width(a.Ports), width(b.Ports)) })
		o.servers[key] = o.serversOf(key)
	}
	return o
}

// width is how many ports a range has.
func width(r model.PortRange) int {
	if r.Any() {
		return math.MaxUint16 + 1
	}
	return int(r.Last) - int(r.First)
}

// remembers reports whether the flow table has any say in a VIP's packets.
func remembers(v *model.VIP) bool {
	return v.Tracking == model.TrackingAlways || v.Tracking != model.TrackingNone && v.HasOpeners()
}

// encounter is a trial with all that the oracle knows of it.
type encounter struct {
	*oracle
	trial
	anatomy
	// ours: it is addressed to a VIP's address.
	ours bool
	// about: it is an ICMP error that tells its flow.
	about bool
	// vips are those that may be the packet's: one, or more if it is a later fragment.
	vips []*model.VIP
	// candidates are the backends that it may go to, none if nobody is up.
	candidates []candidate
	// hash is that of the flow, if certain.
	hash    uint64
	certain bool
}

func (o *oracle) meet(t trial) encounter {
	e := encounter{oracle: o, trial: t, anatomy: dissect(t.frame, t.near)}
	e.ours = o.addresses[e.destination]
	if !e.ours || e.flaws != 0 {
		return e
	}
	switch {
	case e.part == laterFragment:
		e.meetLaterFragment()
	case e.carriesFlow():
		e.meetFlow(e.flow())
	case e.isError():
		flow, tells := e.quoted()
		if e.about = tells; tells {
			e.meetFlow(flow)
		}
	}
	return e
}

// meetFlow finds a flow's VIP and its candidates.
func (e *encounter) meetFlow(f Flow) {
	for _, l := range e.listeners[serviceKey{f.Destination.Addr(), f.Protocol}] {
		if !l.Ports.Contains(f.Destination.Port()) {
			continue
		}
		e.vips = []*model.VIP{l.vip}
		e.hash, e.certain = e.options.Seed.AffineHash(f, l.vip.Name, l.vip.Affinity), true
		e.candidates = e.candidatesOf(l.vip)
		return
	}
}

// meetLaterFragment has all VIPs of its address: their ports it does not tell, and
// with IPv6 its protocol is not that of the first one for certain.
func (e *encounter) meetLaterFragment() {
	for _, protocol := range []model.Protocol{model.TCP, model.UDP} {
		if e.ipv6 || uint8(protocol) == e.protocol {
			s := e.servers[serviceKey{e.destination, protocol}]
			e.vips = append(e.vips, s.vips...)
			e.candidates = append(e.candidates, s.candidates...)
		}
	}
}

// servers are all that may get packets of a service.
type servers struct {
	vips       []*model.VIP
	candidates []candidate
}

func (o *oracle) serversOf(key serviceKey) servers {
	var s servers
	for _, l := range o.listeners[key] {
		if slices.Contains(s.vips, l.vip) {
			continue
		}
		s.vips = append(s.vips, l.vip)
		for _, p := range o.poolsOf(l.vip) {
			s.candidates = append(s.candidates, o.anyOf(l.vip, p)...)
		}
	}
	return s
}

// poolsOf are the pool of a VIP and those before it on which it may have flows.
func (o *oracle) poolsOf(v *model.VIP) []forwarding.Pool {
	return append([]forwarding.Pool{o.pools[v.Pool]}, o.former[v.Name]...)
}

// hashesFragments is the VIP that takes fragments which come before their first one, or nil.
func (e *encounter) hashesFragments(protocol uint8) *model.VIP {
	for _, l := range e.listeners[serviceKey{e.destination, model.Protocol(protocol)}] {
		if l.vip.Fragments == model.FragmentsHash {
			return l.vip
		}
	}
	return nil
}

// candidatesOf is the owner of the flow's slot where that is settled, and else
// every backend that may have it.
func (e *encounter) candidatesOf(v *model.VIP) []candidate {
	pool := e.pools[v.Pool]
	pools := e.poolsOf(v)
	if v.QUIC && !e.about {
		for _, p := range pools {
			if named := e.namedIn(v, p); named != nil {
				return named
			}
		}
	}
	if v.Fragments == model.FragmentsHash && e.part == firstFragment {
		// It follows later ones that came before it, with IPv6 of whatever protocol.
		for _, protocol := range []uint8{numberTCP, numberUDP} {
			if other := e.hashesFragments(protocol); other != nil && (e.ipv6 || protocol == e.protocol) {
				pools = append(pools, e.pools[other.Pool])
			}
		}
	} else if len(pools) == 1 {
		if pool.Table == nil {
			return nil
		}
		id := pool.Members[pool.Table.Owners()[Slot(e.hash, pool.Slots)]].ID
		return []candidate{e.candidate(v, pool.Name, id)}
	}
	var all []candidate
	for _, p := range pools {
		all = append(all, e.anyOf(v, p)...)
	}
	return all
}

// namedIn is the backend of a pool that a QUIC connection ID names: three bits of
// configuration, five of anything, the server ID (draft-ietf-quic-load-balancers).
func (e *encounter) namedIn(v *model.VIP, pool forwarding.Pool) []candidate {
	id := e.connectionID()
	for _, b := range pool.Backends {
		for _, s := range b.ServerIDs {
			if len(id) > 0 && s.Config == id[0]>>5 && bytes.HasPrefix(id[1:], []byte(s.ID)) {
				return []candidate{e.candidate(v, pool.Name, b.ID)}
			}
		}
	}
	return nil
}

func (o *oracle) anyOf(v *model.VIP, pool forwarding.Pool) []candidate {
	var all []candidate
	for _, b := range pool.Backends {
		all = append(all, o.candidate(v, pool.Name, b.ID))
	}
	return all
}

func (o *oracle) candidate(v *model.VIP, pool string, id model.BackendID) candidate {
	c := candidate{vip: v, key: BackendKey{pool, id}}
	if path, known := o.paths[id.Address]; known {
		c.path = &path
	}
	return c
}

// served reports whether the packet may be a flow's of a VIP.
func (e *encounter) served() bool { return len(e.vips) > 0 }

// opens reports whether the packet opens a connection of its VIP.
func (e *encounter) opens() bool {
	if e.about || e.part == laterFragment {
		return false
	}
	return e.isSYN() || e.vips[0].QUIC && e.isQUICOpener()
}

// judgement is what an outcome adds to the counters if it is right.
type judgement struct {
	reason string
	// vips are those of which one counts the packet.
	vips    []*model.VIP
	backend BackendKey
	one     model.Counters
}

// judge holds an outcome against the rule of its reason.
func (o *oracle) judge(t trial, out outcome) (judgement, error) {
	if len(out.reasons) != 1 {
		return judgement{}, fmt.Errorf("verdict %d, and counted as %v: want exactly one reason", out.verdict, out.reasons)
	}
	j := judgement{reason: out.reasons[0]}
	if err := checkVerdict(out.verdict, j.reason); err != nil {
		return j, fmt.Errorf("%s: %w", j.reason, err)
	}
	rule, known := o.rules[j.reason]
	if !known {
		return j, fmt.Errorf("%s: the fuzzer has no rule for this reason: add one", j.reason)
	}
	e := o.meet(t)
	if !rule.when(&e) || e.slipsThrough(j.reason) || e.intrudes(j.reason) {
		return j, fmt.Errorf("%s, for no reason: %s", j.reason, e.describe())
	}
	if e.served() && j.reason != "drop_fragment_early" && j.reason != "pass_not_vip" {
		j.vips, j.one = e.vips, model.Counters{Packets: 1, Bytes: uint64(e.length())}
		// What is dropped before is not looked into.
		if e.opens() && (e.isSYN() || e.screened() != j.reason && e.refusal(e.vips[0]) != j.reason) {
			j.one.Connections = 1
		}
	}
	if rule.becomes == nil {
		return j, nil
	}
	backend, err := rule.becomes(&e, out.frame)
	if err != nil {
		return j, fmt.Errorf("%s: %w\n%s", j.reason, err, e.describe())
	}
	j.backend = backend
	if len(j.vips) > 1 {
		j.vips = slices.DeleteFunc(slices.Clone(j.vips), func(v *model.VIP) bool {
			return !slices.ContainsFunc(o.poolsOf(v), func(p forwarding.Pool) bool { return p.Name == backend.Pool })
		})
	}
	if strings.HasPrefix(j.reason, "pass_") {
		return j, nil
	}
	return j, stillWellFormed(t.frame, out.frame)
}

// stillWellFormed wants what leaves to be right in the eyes of a library that knows
// nothing of ours, if what came was.
func stillWellFormed(in, out []byte) error {
	err := wellFormed(out)
	if err == nil || wellFormed(in) != nil {
		return nil
	}
	return fmt.Errorf("a good frame came, and a bad one leaves: %w", err)
}

// describe says how the oracle sees the packet.
func (e *encounter) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "IP header at %d, transport at %d, end at %d of %d, protocol %d, %v to %v, TTL %d, flaws %04b",
		e.l3, e.l4, e.end, len(e.frame()), e.protocol, e.source, e.destination, e.hops, e.flaws)
	fmt.Fprintf(&b, ", part %d, for a VIP address: %t, an error about a flow: %t", e.part, e.ours, e.about)
	for _, v := range e.vips {
		fmt.Fprintf(&b, ", VIP %s", v.Name)
	}
	for _, c := range e.candidates[:min(len(e.candidates), 6)] {
		fmt.Fprintf(&b, "\n  %v: %v", c.key, e.fate(c))
	}
	return b.String()
}

// frame is what came in.
func (e *encounter) frame() []byte { return e.trial.frame }

// tally sums up what the counters should say.
type tally struct {
	vips     map[string]model.Counters
	backends map[BackendKey]model.Counters
	reasons  map[string]uint64
}

// add counts a packet, for a VIP if it is one's.
func (t *tally) add(j judgement, vip string) {
	t.reasons[j.reason]++
	if vip != "" {
		t.vips[vip] = plus(t.vips[vip], j.one)
	}
	if j.backend.Pool != "" {
		t.backends[j.backend] = plus(t.backends[j.backend], j.one)
	}
}

// check wants the counters to say just that: no packet more on a VIP or a backend
// than were sent there.
func (t *tally) check(c Counters) error {
	var errs []error
	for name, got := range c.VIPs {
		if want := t.vips[name]; got != want {
			errs = append(errs, fmt.Errorf("VIP %s counts %+v, want %+v", name, got, want))
		}
	}
	for key, got := range c.Backends {
		if want := t.backends[key]; got != want {
			errs = append(errs, fmt.Errorf("backend %v counts %+v, want %+v", key, got, want))
		}
	}
	for _, r := range c.Reasons {
		if want := t.reasons[r.Name]; r.Packets != want {
			errs = append(errs, fmt.Errorf("reason %s counts %d, want %d", r.Name, r.Packets, want))
		}
	}
	return errors.Join(errs...)
}

// tallyOf begins with what the counters say.
func tallyOf(c Counters) tally {
	t := tally{maps.Clone(c.VIPs), maps.Clone(c.Backends), map[string]uint64{}}
	for _, r := range c.Reasons {
		t.reasons[r.Name] = r.Packets
	}
	return t
}
