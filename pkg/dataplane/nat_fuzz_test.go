package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// natFuzz sends mutated packets both ways through VIPs that translate. What its oracle
// wants of a packet that leaves is who may send it to whom, and that data and sums are
// as they were.
type natFuzz struct {
	*fuzzLab
	table          *natTable
	vips, backends map[netip.Addr]natServed
	reached        map[string]int
}

func newNATFuzz(t testing.TB) *natFuzz {
	t.Helper()
	options := tableOptions()
	options.ICMPRate = unlimited
	table := newNATTable(t, natSetting{options: options})
	state := servedState(table.services)
	n := len(table.Plane.reasons)
	f := &natFuzz{table: table, vips: map[netip.Addr]natServed{}, backends: map[netip.Addr]natServed{}, reached: map[string]int{}}
	f.fuzzLab = &fuzzLab{
		lab: table.lab, oracle: newOracle(options, []int{loopback, table.link}, state, state),
		out: make([]byte, longestFrame+1024), keys: make([]uint32, n), counts: make([]uint64, n*ebpf.MustPossibleCPU()), totals: make([]uint64, n),
	}
	for _, s := range table.services {
		f.vips[s.address], f.backends[s.backend.Address] = s, s
	}
	for _, family := range families() {
		for _, topic := range natSettings()[0].topics {
			for _, r := range topic(table, family) {
				f.seeds = append(f.seeds, trial{frame: r.in[:min(len(r.in), longestFrame)], origin: r.name, ingress: loopback})
			}
		}
	}
	slices.SortStableFunc(f.seeds, func(a, b trial) int { return strings.Compare(a.origin, b.origin) })
	f.splits = f.canSplit()
	if _, err := f.moved(); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestFuzzNAT is the fuzzer of VIPs that translate.
func TestFuzzNAT(t *testing.T) {
	t.Parallel()
	seed, runs := fromEnvironment(t, fuzzSeedVariable, defaultFuzzSeed), fromEnvironment(t, fuzzRunsVariable, defaultFuzzRuns)
	f := newNATFuzz(t)
	m := newMutator(f.fuzzLab, seed)
	if err := f.table.do(func() error {
		for n := range runs {
			if err := f.tryNAT(m.trial(n)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Errorf("%s=%d: %v", fuzzSeedVariable, seed, err)
	}
	for _, reason := range f.Plane.reasons {
		t.Logf("%10d %s", f.reached[reason], reason)
		translates := strings.HasSuffix(reason, "_reply") && reason != "pass_reply" || strings.HasSuffix(reason, "_forwarded") || reason == "drop_untranslatable"
		if translates && f.reached[reason] == 0 {
			t.Errorf("no packet ended as %s", reason)
		}
	}
	if err := f.table.agreement(); err != nil {
		t.Error(err)
	}
}

func (f *natFuzz) tryNAT(t trial) error {
	out, err := f.run(t)
	if err != nil {
		return err
	}
	if err := f.judgeNAT(t, out); err != nil {
		in := dissect(t.frame, t.near)
		return fmt.Errorf("%w\nIP header at %d, transport at %d, end at %d, protocol %d, %v to %v\n%v\nleaves as\n%x", err, in.l3, in.l4, in.end, in.protocol, in.source, in.destination, t, out.frame)
	}
	f.reached[out.reasons[0]]++
	return nil
}

// judgeNAT holds an outcome against the rules.
func (f *natFuzz) judgeNAT(t trial, out outcome) error {
	if len(out.reasons) != 1 {
		return fmt.Errorf("verdict %d, and counted as %v: want exactly one reason", out.verdict, out.reasons)
	}
	reason := out.reasons[0]
	if err := checkVerdict(out.verdict, reason); err != nil || reason == "drop_internal" {
		return errors.Join(err, fmt.Errorf("ends as %s", reason))
	}
	if strings.HasPrefix(reason, "drop_") {
		return nil
	}
	if strings.HasPrefix(reason, "pass_not_") {
		return checkBytes(out.frame, t.frame)
	}
	in, left := dissect(t.frame, t.near), dissect(out.frame, len(out.frame))
	err := f.judgeEnds(reason, &in, &left)
	if err == nil && (strings.HasSuffix(reason, "_forwarded") || strings.HasSuffix(reason, "_reply") && reason != "tx_echo_reply") {
		err = sameTransport(&in, &left, f.vips[in.destination].mss != 0)
	}
	if err == nil {
		err = sameHeader(&in, &left)
	}
	// Of datagrams gopacket would look for what their ports are known for.
	if err != nil || in.protocol == numberUDP || !sumIsRight(&in) {
		return err
	}
	return stillWellFormed(t.frame, out.frame)
}

// sameHeader wants lengths that fit, and an IP header that is as right as it was.
func sameHeader(in, out *anatomy) error {
	if out.flaws != 0 && in.flaws == 0 || out.end > len(out.frame) {
		return fmt.Errorf("flaws %04b, ends at %d of %d", out.flaws, out.end, len(out.frame))
	}
	right := func(a *anatomy) bool { return a.ipv6 || onesSum(a.frame[a.l3:a.l4]) == 0xffff }
	if right(in) && !right(out) {
		return errors.New("the IP header's checksum is wrong")
	}
	return nil
}

// sumIsRight reports whether a packet's transport checksum is: gopacket does not look
// behind fragment headers.
func sumIsRight(a *anatomy) bool {
	if a.fragmentHeaders == 0 || a.end > len(a.frame) || a.l4 == 0 || a.l4 > a.end {
		return true
	}
	body := a.transport()
	return onesSum(pseudoHeader(a.source, a.destination, a.protocol, len(body)), body)%0xffff == 0
}

// judgeEnds holds source and destination of what leaves against what came.
func (f *natFuzz) judgeEnds(reason string, in, out *anatomy) error {
	bad := func(what string) error {
		return fmt.Errorf("%s: %v to %v leaves as %v to %v: %s", reason, in.source, in.destination, out.source, out.destination, what)
	}
	_, fromSource := f.table.sources.number(out.source)
	_, toSource := f.table.sources.number(in.destination)
	switch {
	case strings.HasSuffix(reason, "_forwarded"):
		s, known := f.backends[out.destination]
		if !known || s.address != in.destination {
			return bad("to no backend of the VIP")
		}
		if s.mode == model.ModeFullNAT && !fromSource || s.mode == model.ModeNAT && out.source != in.source {
			return bad("not from where it should be")
		}
		return nil
	case strings.HasSuffix(reason, "_reply") && reason != "tx_echo_reply":
		s, known := f.vips[out.source]
		if toSource {
			if !known || s.mode != model.ModeFullNAT || !in.isError() && s.backend.Address != in.source {
				return bad("not in the name of a VIP of the backend's")
			}
			return nil
		}
		if out.destination != in.destination || in.isError() && out.source == in.source {
			if out.destination != in.destination {
				return bad("to another")
			}
			return nil
		}
		if !known || s.mode != model.ModeNAT || s.backend.Address != in.source {
			return bad("not in the name of a VIP of the backend's")
		}
		return nil
	}
	if out.source != in.destination || out.destination != in.source {
		return bad("an answer goes back")
	}
	return nil
}

// sameTransport wants what IP carries to be the same but for ports, checksum and a
// clamped MSS, and its sum to be as right as it was.
func sameTransport(in, out *anatomy, clamps bool) error {
	if in.isError() {
		return nil // gopacket looks at the sum, and tables at the rest
	}
	before, after := in.frame[in.l4:in.end], out.frame[out.l4:out.end]
	if len(before) != len(after) {
		return fmt.Errorf("%d bytes of transport, now %d", len(before), len(after))
	}
	if in.part == laterFragment {
		return checkBytes(after, before)
	}
	check, length := 16, headerTCP
	if in.protocol == numberUDP {
		check, length = 6, headerUDP
	}
	want := slices.Clone(before)
	copy(want[:4], after)
	copy(want[check:check+2], after[check:])
	if clamps && in.protocol == numberTCP {
		copy(want[length:4*int(before[12]>>4)], after[length:])
	}
	if err := checkBytes(after, want); err != nil {
		return err
	}
	pseudo := func(a *anatomy) []byte { return pseudoHeader(a.source, a.destination, a.protocol, len(before)) }
	was, is := onesSum(pseudo(in), before)%0xffff, onesSum(pseudo(out), after)%0xffff
	if in.protocol == numberUDP && before[6] == 0 && before[7] == 0 {
		// There was none: there is none still, or over IPv6 the right one.
		if was = is; out.ipv6 && !in.ipv6 {
			if is != 0 && int(before[4])<<8|int(before[5]) == len(before) {
				return errors.New("a wrong checksum where there was none")
			}
		} else if after[6] != 0 || after[7] != 0 {
			return errors.New("a checksum where there was none")
		}
	}
	if was != is {
		return fmt.Errorf("sum was %#x, is %#x", was, is)
	}
	return nil
}

// TestFuzzNATNotices is the negative control: maps that say something else than the
// balancer was told, and every byte of good outcomes spoilt, must not pass.
func TestFuzzNATNotices(t *testing.T) {
	f := newNATFuzz(t)
	m := newMutator(f.fuzzLab, defaultFuzzSeed)
	fuzz := func() error {
		return f.table.do(func() error {
			for n := range uint64(20_000) {
				if err := f.tryNAT(m.trial(n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for name, damage := range map[string]func() error{
		"backends":  f.eachBackend(func(b *lbBackend) { b.OuterDestination.Word[1] ^= 1 << 57 }),
		"endpoints": each(f.Plane.endpoints.elements, func(e *lbNatEndpoint) { e.Address.Word[1] ^= 1 << 57 }),
		"VIPs":      each(f.Plane.translations.elements, func(e *lbTranslation) { e.Address.Word[1] ^= 1 << 57 }),
		"modes":     each(f.Plane.vips.elements, func(e *lbVipEntry) { e.Mode ^= 1 }),
	} {
		back := []func(){keep(f.Plane.backends.elements), keep(f.Plane.endpoints.elements), keep(f.Plane.translations.elements), keep(f.Plane.vips.elements)}
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if fuzz() == nil {
			t.Errorf("%s: not noticed", name)
		}
		for _, put := range back {
			put()
		}
	}
	for _, family := range families() {
		for _, s := range f.table.every(family, "") {
			c := f.table.talk(s, model.TCP)
			for _, frame := range [][]byte{c.ask(flagACK, text(20)).bytes(), c.answer(flagACK, text(20)).bytes()} {
				f.noticesBytes(t, trial{frame: frame, near: len(frame), ingress: loopback})
			}
		}
	}
}

// noticesBytes spoils what a packet leaves as, from its addresses on.
func (f *natFuzz) noticesBytes(t *testing.T, in trial) {
	t.Helper()
	var good outcome
	if err := f.table.do(func() (err error) {
		f.moved()
		good, err = f.run(in)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	good.frame = slices.Clone(good.frame)
	if err := f.judgeNAT(in, good); err != nil {
		t.Fatal(err)
	}
	a := dissect(good.frame, len(good.frame))
	for at := a.l3 + map[bool]int{false: 12, true: 8}[a.ipv6]; at < len(good.frame); at++ {
		bad := good
		bad.frame = set(good.frame, at, good.frame[at]^0x10)
		if f.judgeNAT(in, bad) == nil {
			t.Errorf("byte %d: not noticed", at)
		}
	}
}
