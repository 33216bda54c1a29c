package reconcile

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/steelyard-lb/steelyard/pkg/forwarding"
	"github.com/steelyard-lb/steelyard/pkg/model"
)

// separate refuses VIPs and backends that have an address from which this node sends
// under fullnat: what comes for it would be taken for a reply.
func (l *Loop) separate(state model.State) error {
	var errs []error
	refuse := func(at string, addr netip.Addr) {
		if key, prefix := l.natSource(addr); prefix.Contains(addr) {
			errs = append(errs, &model.FieldError{Path: at + ", address", Reason: fmt.Sprintf(
				"%s is one of those that this node's configuration has under nat.%s, %s, for nothing but fullnat to send from; give it another address, or change the configuration",
				addr, key, prefix)})
		}
	}
	for i := range state.VIPs {
		endpoints := state.VIPs[i].Endpoints
		for j, e := range endpoints {
			if j == 0 || e.Address != endpoints[j-1].Address { // said once is enough
				refuse(fmt.Sprintf("VIP %q", state.VIPs[i].Name), e.Address)
			}
		}
	}
	for i := range state.Pools {
		for _, b := range state.Pools[i].Backends {
			refuse(fmt.Sprintf("pool %q, backend %s", state.Pools[i].Name, b), b.Address)
		}
	}
	return errors.Join(errs...)
}

// natSource is from where fullnat sends to a backend, with its key in the configuration.
func (l *Loop) natSource(to netip.Addr) (key string, source netip.Prefix) {
	if to.Is4() {
		return "source_ipv4", l.o.NATIPv4
	}
	return "source_ipv6", l.o.NATIPv6
}

// reach tells which backends a VIP's mode cannot reach although their next hop is known.
type reach struct {
	loop  *Loop
	paths forwarding.Paths
	// modes are those of a pool's VIPs, each with the first VIP that has it.
	modes map[string]map[model.Mode]string
}

func (l *Loop) reaching() reach {
	l.resolve()
	r := reach{l, l.paths, map[string]map[model.Mode]string{}}
	for _, v := range l.desired.state.VIPs {
		if r.modes[v.Pool] == nil {
			r.modes[v.Pool] = map[model.Mode]string{}
		}
		if _, known := r.modes[v.Pool][v.Mode]; !known {
			r.modes[v.Pool][v.Mode] = v.Name
		}
	}
	return r
}

// problem says why a backend of a pool cannot be reached in one of the modes, or is empty.
func (r *reach) problem(pool string, addr netip.Addr) string {
	for _, mode := range []model.Mode{model.ModeDSRL2, model.ModeDSRIPIP, model.ModeDSRGUE, model.ModeFullNAT} {
		vip, used := r.modes[pool][mode]
		if !used {
			continue
		}
		if problem := r.problemOf(mode, addr); problem != "" {
			return fmt.Sprintf("%s, and VIP %s has mode %s", problem, vip, mode)
		}
	}
	return ""
}

func (r *reach) problemOf(mode model.Mode, addr netip.Addr) string {
	path := r.paths[addr]
	switch mode {
	case model.ModeDSRL2:
		if !path.OnLink {
			return "it is behind a router"
		}
	case model.ModeDSRIPIP, model.ModeDSRGUE:
		if !path.Outer.IsValid() || path.Outer.Is4() != addr.Is4() {
			return "the balancer has no address of its family"
		}
	case model.ModeFullNAT:
		if key, source := r.loop.natSource(addr); !source.IsValid() {
			return fmt.Sprintf("the configuration has no nat.%s", key)
		}
	}
	return ""
}
