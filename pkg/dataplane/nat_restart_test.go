package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// pinnedTable is a table whose maps outlive its Plane.
func pinnedTable(t *testing.T, options Options) (*natTable, string) {
	path := bpffs(t)
	l := newNATTable(t, natSetting{options: options})
	l.reopen(t, path, options, nil)
	return l, path
}

// reopen gives the table another Plane over what the last one left pinned, after
// something has been done to that.
func (l *natTable) reopen(t *testing.T, path string, options Options, meddle func()) {
	t.Helper()
	if l.pin != nil {
		if err := l.Plane.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if meddle != nil {
		meddle()
	}
	plane, err := Open(path, smallLimits(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Close() })
	l.Plane, l.sources, l.seen = plane, sourcesOf(options), nil
	if err := l.do(func() error {
		return errors.Join(plane.sendsThrough(uint32(l.link)), plane.Apply(servedState(l.services)))
	}); err != nil {
		t.Fatal(err)
	}
}

// goesOn reports how a conversation goes on, nil if as before.
func (l *natTable) goesOn(c talk) error {
	errs := []error{l.check(c.forth("forth", c.ask(flagACK, text(9)))), l.check(l.back("back", c, c.answer(flagACK, text(9))))}
	if c.protocol == model.TCP && c.mode == model.ModeFullNAT {
		errs = append(errs, l.check(c.forth("syn again", c.ask(flagSYN, nil))))
	}
	return errors.Join(errs...)
}

// everyTalk are conversations through every VIP.
func (l *natTable) everyTalk() []talk {
	var all []talk
	for _, f := range families() {
		for _, s := range l.any(f) {
			all = append(all, l.talk(s, model.TCP), l.talk(s, model.UDP))
		}
	}
	return all
}

// restart is another daemon, with other options or not, over what the former one left.
type restart struct {
	change func(*Options)
	// keeps reports whether a conversation goes on.
	keeps func(talk) bool
}

func restarts() map[string]restart {
	all := func(talk) bool { return true }
	only := func(prefix string) func(talk) bool {
		return func(c talk) bool {
			return c.mode == model.ModeNAT || netip.MustParsePrefix(prefix).Contains(c.source.Addr())
		}
	}
	return map[string]restart{
		"with the same":        {func(*Options) {}, all},
		"other ports":          {func(o *Options) { o.NATPorts = model.PortRange{First: 2000, Last: 20011} }, all},
		"hardly any port":      {func(o *Options) { o.NATPorts = model.PortRange{First: 40010, Last: 40100} }, all},
		"more addresses":       {func(o *Options) { o.NATSourceIPv4 = netip.MustParsePrefix("10.9.0.0/29") }, all},
		"fewer addresses":      {func(o *Options) { o.NATSourceIPv6 = netip.Prefix{} }, only("10.9.0.4/31")},
		"one address of two":   {func(o *Options) { o.NATSourceIPv4 = netip.MustParsePrefix("10.9.0.5/32") }, func(c talk) bool { return c.source.Addr() != netip.MustParseAddr("10.9.0.4") }},
		"others":               {func(o *Options) { o.NATSourceIPv4 = netip.MustParsePrefix("10.9.1.0/30") }, only("2001:db8:9::8/127")},
		"others, but for ipv4": {func(o *Options) { o.NATSourceIPv6 = netip.MustParsePrefix("2001:db8:9:1::/127") }, only("10.9.0.4/31")},
	}
}

// TestNATRestart: conversations outlive a daemon, those whose source there is no more
// excepted, and what ends afterwards gives its port back.
func TestNATRestart(t *testing.T) {
	t.Parallel()
	for name, r := range restarts() {
		t.Run(name, func(t *testing.T) {
			l, path := pinnedTable(t, natOptions())
			talks := l.everyTalk()
			options := natOptions()
			r.change(&options)
			l.reopen(t, path, options, nil)
			l.agree(t)
			for _, c := range talks {
				if r.keeps(c) {
					if err := l.goesOn(c); err != nil {
						t.Errorf("%s: %v", c.row("after a restart"), err)
					}
				} else if c.source.IsValid() && l.goesOn(c) == nil {
					t.Errorf("%s: it goes on, from %s", c.row("after a restart"), c.source)
				}
			}
			l.reopen(t, path, options, nil)
			l.agree(t)
			l.endAll(t, talks, r.keeps)
			for _, f := range families() {
				for _, s := range l.every(f, "")[1:] {
					if l.sources.serves(s.backend.Address) {
						l.talk(s, model.TCP)
					}
				}
			}
			l.agree(t)
		})
	}
}

// endAll ends conversations: some begin again, as a client's next connection does, the
// others are over for a sweep.
func (l *natTable) endAll(t *testing.T, talks []talk, keeps func(talk) bool) {
	t.Helper()
	for i, c := range talks {
		if c.mode == model.ModeNAT || !keeps(c) {
			continue
		}
		if i%4 == 0 && c.protocol == model.TCP {
			l.through(t, c.ask(flagRST, nil).bytes())
			l.through(t, c.ask(flagSYN, nil).bytes())
			continue
		}
		l.inject(c, natOpen|natClosed, 2*time.Minute)
	}
	l.sweeps(1)
	l.agree(t)
}

// TestNATUpgrade: what was pinned by a version that knew no NAT is carried over.
func TestNATUpgrade(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string][]string{
		"all of nat": {lbMapTranslations, lbMapSessions, lbMapNatPorts, lbMapNatTimeouts, lbMapNatEndpoints, lbMapCourses},
		"timeouts":   {lbMapNatTimeouts},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := pinnedRig(t)
			old := r.open(0, flows)
			churns["drain"](r)
			broken := r.broken(old)
			young := r.open(flows, flows)
			for _, m := range lost {
				if err := os.Remove(r.plane.pin.mapPath(m)); err != nil {
					t.Fatal(err)
				}
			}
			r.reopen(path)
			r.apply()
			if broken += r.broken(old) + r.broken(young); broken > 0 {
				t.Errorf("%d flows broken", broken)
			}
			if err := r.plane.Attach(model.XDPAuto); err != nil {
				t.Fatal(err)
			}
			r.reopen(path)
			r.apply()
			if broken = r.broken(old) + r.broken(young); broken > 0 || !r.plane.Adopted() {
				t.Errorf("%d flows broken after the next start", broken)
			}
		})
	}
}

// The control: a restart that has lost the translations breaks what they were for.
func TestNATRestartNotices(t *testing.T) {
	l, path := pinnedTable(t, natOptions())
	talks := l.everyTalk()
	l.reopen(t, path, natOptions(), func() {
		if err := os.Remove(l.pin.mapPath(lbMapTranslations)); err != nil {
			t.Fatal(err)
		}
	})
	broken := 0
	for _, c := range talks {
		if l.goesOn(c) != nil {
			broken++
		}
	}
	if broken == 0 {
		t.Error("no conversation broken: the test shows nothing")
	}
}
