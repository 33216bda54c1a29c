package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// TestFuzzNoticesDamage is the negative control of the fuzzer: maps that say
// something else than the balancer was told must not pass.
func TestFuzzNoticesDamage(t *testing.T) {
	t.Parallel()
	l := newFuzzLab(t, fuzzOptions()[1])
	for name, damage := range map[string]func() error{
		"checksum outside":         l.eachBackend(func(b *lbBackend) { b.OuterChecksum ^= 1 }),
		"sum of addresses outside": l.eachBackend(func(b *lbBackend) { b.OuterAddresses ^= 1 }),
		"source outside":           l.eachBackend(func(b *lbBackend) { b.OuterSource.Word[1] ^= 1 << 40 }),
		"MTU one more":             l.eachBackend(func(b *lbBackend) { b.Mtu++ }),
		"MTU one less":             l.eachBackend(func(b *lbBackend) { b.Mtu-- }),
		"destination MAC":          l.eachBackend(func(b *lbBackend) { b.Mac[5] ^= 1 }),
		"tag":                      l.eachBackend(func(b *lbBackend) { b.Vlan ^= 0x0100 }),
		"interface":                l.eachBackend(func(b *lbBackend) { b.Ifindex = missingIF }),
		"never unreachable":        l.eachBackend(func(b *lbBackend) { b.Modes = 0xff }),
		"VIPs lost":                each(l.Plane.vips.elements, func(e *lbVipEntry) { e.Endpoint = 0 }),
		"VIPs of another mode":     each(l.Plane.vips.elements, func(e *lbVipEntry) { e.Mode = uint8(lbModeMODE_DSR_L2) }),
		"ranges":                   each(l.Plane.ranges.elements, func(r *lbPortRange) { r.Last-- }),
		"MSS":                      each(l.Plane.terms.elements, func(v *lbVipTerms) { v.Mss++ }),
		"affinity":                 each(l.Plane.terms.elements, func(v *lbVipTerms) { v.Affinity.MaskIpv4 = 0 }),
		"slots of nobody":          each(l.Plane.slots.elements, func(s *lbSlotLine) { *s = lbSlotLine{} }),
		"other seed":               func() error { l.oracle.options.Seed[0]++; return nil },
		"backend counts a packet more": func() error {
			at := l.Plane.applied.places[l.at(ipv4(), portL2).pool()]
			bump(l, at.base()+at.owners[model.BackendID{Address: l.at(ipv4(), portL2).backend}])
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer l.saved()()
			err := errors.Join(l.begin(), damage())
			if err != nil {
				t.Fatal(err)
			}
			err = l.do(func() error { return l.fuzz(newMutator(l, defaultFuzzSeed), 0, 30_000, 1) })
			if err == nil {
				t.Fatal("not noticed")
			}
			first, _, _ := strings.Cut(err.Error(), "\n")
			t.Log(first)
		})
	}
	if err := errors.Join(l.begin(), l.do(func() error { return l.fuzz(newMutator(l, defaultFuzzSeed), 0, 10_000, 1) })); err != nil {
		t.Errorf("undamaged: %v", err)
	}
}

// saved keeps what is about to be damaged, and returns what puts it back.
func (l *fuzzLab) saved() func() {
	options := l.oracle.options
	put := []func(){
		keep(l.Plane.backends.elements), keep(l.Plane.vips.elements), keep(l.Plane.ranges.elements), keep(l.Plane.terms.elements), keep(l.Plane.slots.elements),
	}
	return func() {
		l.oracle.options = options
		for _, back := range put {
			back()
		}
		clear(l.Plane.flows.elements)
		clear(l.Plane.fragments.elements)
	}
}

func keep[T any](elements []T) func() {
	was := slices.Clone(elements)
	return func() { copy(elements, was) }
}

func each[T any](elements []T, change func(*T)) func() error {
	return func() error {
		for i := range elements {
			change(&elements[i])
		}
		return nil
	}
}

// eachBackend changes those that have a path.
func (l *fuzzLab) eachBackend(change func(*lbBackend)) func() error {
	return each(l.Plane.backends.elements, func(b *lbBackend) {
		if b.Ifindex != 0 {
			change(b)
		}
	})
}

// bump counts a packet that nobody sent.
func bump(l *fuzzLab, backend uint32) { l.backendCounters.at(0, backend).Packets++ }

// TestFuzzNoticesOutcome spoils the outcome of good packets in every byte, and in
// everything else: none may pass.
func TestFuzzNoticesOutcome(t *testing.T) {
	l := newFuzzLab(t, fuzzOptions()[1])
	for _, name := range []string{
		"ipv4/foreign/tcp", "ipv6/foreign/tcp", "ipv4/foreign/arp for the VIP", "ipv4/l2/tcp syn", "ipv6/l2/tcp syn",
		"ipv4/l2/other interface udp", "ipv4/ipip in ipv4/udp", "ipv6/ipip in ipv6/udp", "ipv6/vlan/802.1q to ipip in ipv4 tagged",
		"ipv4/echo/57 bytes", "ipv6/echo/57 bytes", "ipv4/reset/syn", "ipv6/reset/syn with data",
		"ipv4/answer/ttl 0, gue in ipv4, tcp", "ipv6/answer/ttl 0, gue in ipv4, udp", "ipv4/fuzz", "ipv6/fuzz",
	} {
		t.Run(name, func(t *testing.T) {
			at := slices.IndexFunc(l.seeds, func(s trial) bool { return s.origin == name })
			if at < 0 {
				t.Fatal("no row is called so")
			}
			seed := l.seeds[at]
			seed.near = len(seed.frame)
			var good outcome
			err := l.do(func() (err error) {
				good, err = l.run(seed)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			good.frame = bytes.Clone(good.frame)
			if _, err := l.oracle.judge(seed, good); err != nil {
				t.Fatalf("the outcome that the others are made from fails: %v", err)
			}
			for what, bad := range spoilt(good) {
				if _, err := l.oracle.judge(seed, bad); err == nil {
					t.Errorf("%s: not noticed", what)
				}
			}
		})
	}
}

// spoilt are outcomes that differ from a good one, by what is different.
func spoilt(good outcome) map[string]outcome {
	all := map[string]outcome{}
	with := func(name string, change func(*outcome)) {
		bad := good
		change(&bad)
		all[name] = bad
	}
	for at := range good.frame {
		with(fmt.Sprintf("byte %d", at), func(o *outcome) { o.frame = set(o.frame, at, o.frame[at]^0x10) })
	}
	last := len(good.frame) - 1
	with("a byte longer", func(o *outcome) { o.frame = append(set(o.frame, 0), 0) })
	with("a byte shorter", func(o *outcome) { o.frame = o.frame[:last] })
	for verdict := range uint32(xdpRedirect + 1) {
		if verdict != good.verdict {
			with(fmt.Sprintf("verdict %d", verdict), func(o *outcome) { o.verdict = verdict })
		}
	}
	with("uncounted", func(o *outcome) { o.reasons = nil })
	with("counted twice", func(o *outcome) { o.reasons = append(slices.Clone(o.reasons), o.reasons...) })
	with("unheard of", func(o *outcome) { o.reasons = []string{"drop_unheard_of"}; o.verdict = xdpDrop })
	verdicts := map[string]uint32{"pass": xdpPass, "tx": xdpTX, "redirect": xdpRedirect, "drop": xdpDrop}
	for reason := range rules() {
		if reason != good.reasons[0] {
			prefix, _, _ := strings.Cut(reason, "_")
			with(reason, func(o *outcome) { o.reasons, o.verdict = []string{reason}, verdicts[prefix] })
		}
	}
	return all
}

// TestShrink has a frame shrink to the two bytes that matter.
func TestShrink(t *testing.T) {
	long := trial{frame: text(1000), metadata: 8, ingress: 7, near: 100}
	small := shrink(long, func(t trial) bool {
		return len(t.frame) > 99 && t.frame[50] == text(51)[50] && t.frame[99] == text(100)[99]
	})
	want := make([]byte, 100)
	want[50], want[99] = text(51)[50], text(100)[99]
	if !bytes.Equal(small.frame, want) || small.metadata != 0 || small.ingress != loopback {
		t.Errorf("shrunk to %v", small)
	}
}

// TestTrialsRepeat: a seed and a number say all about a trial.
func TestTrialsRepeat(t *testing.T) {
	one, other := newMutator(newFuzzLab(t, fuzzOptions()[0]), 7), newMutator(newFuzzLab(t, fuzzOptions()[0]), 7)
	same := 0
	for n := range uint64(2000) {
		t1 := one.trial(n)
		if t2 := other.trial(n); t1.String() != t2.String() {
			t.Fatalf("%v\n%v", t1, t2)
		}
		if n > 0 && bytes.Equal(t1.frame, one.trial(n-1).frame) {
			same++
		}
	}
	if same > 100 {
		t.Errorf("%d of 2000 frames are as the one before", same)
	}
}
