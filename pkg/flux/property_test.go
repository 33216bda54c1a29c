package flux

import (
	"testing"

	"pgregory.net/rapid"
)

// No flow ever changes its backend while that keeps its flows, but for those that
// were silent for too long, and for those that the flow table says it has given up.
func TestFlowsStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := scenarios().Draw(t, "scenario")
		for _, broken := range play(s, faults{}).broken {
			t.Error(broken)
		}
	})
}

// Once changes have ended, and flows have ended or idled out, every slot and VIP
// settles, the flow table is empty, and it is not asked any more.
func TestEverythingSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := play(scenarios().Draw(t, "scenario"), faults{})
		m.pass(patience)
		for len(m.alive) > 0 {
			m.end(m.alive[0])
		}
		m.sweepOnce() // ends the one that is under way, and learns of losses
		m.now += patience + RefreshAge
		m.sweepOnce()
		m.sweepOnce()
		for i, at := range m.pools {
			if n := at.table.InFlux(); n != 0 {
				t.Errorf("%d slots of pool %d are in flux", n, i)
			}
		}
		for i, v := range m.vips {
			if v.prior >= 0 {
				t.Errorf("VIP %d is in flux", i)
			}
		}
		for i, b := range m.backends {
			if b.left > 0 {
				t.Errorf("number %d is not free again", i)
			}
		}
		m.consulted = 0
		m.flood(1000, Packet{Opener: true})
		m.flood(1000, Packet{})
		if n := m.flows.entries(); n != 0 || m.consulted != 0 {
			t.Errorf("settled, the flow table was asked %d times and has %d entries", m.consulted, n)
		}
	})
}

// Each of the rules is needed: without it, scenarios of the same kind break flows.
func TestEveryRuleIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name string
		faults
	}{
		{"flux is off", faults{off: true}},
		{"a slot forgets its prior", faults{forgetPrior: true}},
		{"a VIP forgets its prior pool", faults{forgetPriorPool: true}},
		{"slots settle on held flows", faults{ignoreHeld: true}},
		{"slots settle before the idle time", faults{hasty: true}},
		{"a sweep counts from its end", faults{lateSweep: true}},
		{"losses are kept quiet", faults{noLost: true}},
		{"time stamps are taken for exact", faults{noLag: true}},
		{"numbers are used again while named", faults{reuseNamed: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if seed := firstBroken(c.faults); seed < 0 {
				t.Errorf("no flow broke in %d scenarios", attempts)
			} else {
				t.Logf("a flow broke in scenario %d", seed)
			}
		})
	}
}

// The same scenarios break nothing if all is right, and they are hard enough:
// flows were watched, and fell to every reason for which one may.
func TestScenariosAreHard(t *testing.T) {
	const hard = 200
	generator := scenarios()
	checked, settled, excused := 0, 0, map[string]int{}
	for seed := range hard {
		m := play(generator.Example(seed), faults{})
		for _, broken := range m.broken {
			t.Errorf("scenario %d: %s", seed, broken)
		}
		checked += m.checked
		settled += m.settled
		for why, n := range m.excused {
			excused[why] += n
		}
	}
	t.Logf("%d packets looked at, %d slots settled, flows excused: %v", checked, settled, excused)
	if checked < 1000*hard || settled < 50*hard {
		t.Error("too little was looked at")
	}
	for _, why := range []string{excusedDead, excusedIdle, excusedEvicted, excusedClosed, excusedNoRoom} {
		if excused[why] == 0 {
			t.Errorf("no flow was excused because %s", why)
		}
	}
}

const attempts = 500

// firstBroken plays scenarios until one breaks a flow; -1 if none does.
func firstBroken(f faults) int {
	generator := scenarios()
	for seed := range attempts {
		if len(play(generator.Example(seed), f).broken) > 0 {
			return seed
		}
	}
	return -1
}
