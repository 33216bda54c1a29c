package health

import (
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/model"
)

// Key names one check of one backend.
type Key struct {
	Pool    string
	Backend model.BackendID
	Check   string
}

// Target is one check of one backend, to be run.
type Target struct {
	Key
	// Check has its defaults filled in.
	Check model.Check
}

// Endpoint is where the probe goes: the check's port, or else the backend's
// own. The port means nothing to ICMP.
func (t Target) Endpoint() netip.AddrPort {
	port := t.Check.Port
	if port == 0 {
		port = t.Backend.Port
	}
	return netip.AddrPortFrom(t.Backend.Address, port)
}

// question is the part of a check that decides what a probe asks, without when
// it asks and how the answers are counted.
func question(c model.Check) model.Check {
	c.Interval, c.Jitter, c.Rise, c.Fall = 0, 0, 0, 0
	return c
}

// Targets lists every check of every backend that is not disabled, in the
// order of the state. Draining backends are checked: they still have flows.
func Targets(s model.State) []Target {
	var targets []Target
	for i := range s.Pools {
		p := &s.Pools[i]
		for _, b := range p.Backends {
			if b.State == model.Disabled {
				continue
			}
			for _, c := range p.Checks {
				c = c.WithDefaults()
				targets = append(targets, Target{Key{p.Name, b.BackendID, c.Name}, c})
			}
		}
	}
	return targets
}
