package model

import (
	"fmt"
	"net/netip"
)

func (v *validator) vips(vips []VIP, pools map[string]*Pool) {
	names := map[string]bool{}
	for i := range vips {
		vip := &vips[i]
		at := fmt.Sprintf("VIP %q", vip.Name)
		if names[vip.Name] {
			v.fail(at, "this name is taken by another VIP")
		}
		names[vip.Name] = true
		v.vip(at, vip)
		v.vipAndPool(at, vip, pools)
	}
	v.clashes(vips)
	v.fragments(vips)
	v.replies(vips, pools)
}

func (v *validator) vip(at string, vip *VIP) {
	v.name(at, vip.Name)
	v.endpoints(at, vip)
	if vip.Protocol != TCP && vip.Protocol != UDP {
		v.fail(at+", protocol", "want tcp or udp")
	}
	if vip.Mode < ModeDSRL2 || vip.Mode > ModeFullNAT {
		v.fail(at+", mode", "want dsr-l2, dsr-ipip, dsr-gue, nat or fullnat")
	}
	if vip.QUIC && vip.Protocol != UDP {
		v.fail(at+", quic", "QUIC runs over udp, this is %s", vip.Protocol)
	}
	v.tracking(at, vip)
	v.affinity(at+", affinity", vip.Affinity)
	if vip.Fragments != FragmentsFollow && vip.Fragments != FragmentsHash {
		v.fail(at+", fragments", "want follow or hash")
	}
	v.mss(at+", mss", vip)
	v.synCookies(at+", syn_cookies", vip)
	if vip.Mode == ModeFullNAT {
		v.fullNAT(at, vip)
	}
	v.limits(at, vip)
}

func (v *validator) endpoints(at string, vip *VIP) {
	switch {
	case len(vip.Endpoints) == 0:
		v.fail(at+", endpoints", "has none; give at least one address and port")
	case len(vip.Endpoints) > MaxEndpoints:
		v.fail(at+", endpoints", "has %d, at most %d are possible; a range of ports is one", len(vip.Endpoints), MaxEndpoints)
	}
	for i, e := range vip.Endpoints {
		if i == 0 || e.Address != vip.Endpoints[i-1].Address { // said once is enough
			v.address(at+", address", e.Address)
		}
		if r := e.Ports; !r.Any() && (r.First == 0 || r.First > r.Last) {
			v.fail(at+", ports", "%d to %d is no range of ports; want 1 to 65535, the first no higher than the last", r.First, r.Last)
		}
	}
}

func (v *validator) tracking(at string, vip *VIP) {
	if vip.Tracking < TrackingFlux || vip.Tracking > TrackingNone {
		v.fail(at+", tracking", "want flux, always or none")
	}
	if vip.IdleTimeout < MinIdleTimeout || vip.IdleTimeout > MaxIdleTimeout {
		v.fail(at+", idle_timeout", "%v is out of range %v to %v", vip.IdleTimeout, MinIdleTimeout, MaxIdleTimeout)
	}
}

func (v *validator) affinity(at string, a Affinity) {
	if a.Scope < AffinityFlow || a.Scope > AffinityPool {
		v.fail(at, "want flow, source or pool")
	}
	if a.IPv4Prefix < 1 || a.IPv4Prefix > 32 {
		v.fail(at, "an IPv4 source prefix of %d bits is out of range 1 to 32", a.IPv4Prefix)
	}
	if a.IPv6Prefix < 1 || a.IPv6Prefix > 128 {
		v.fail(at, "an IPv6 source prefix of %d bits is out of range 1 to 128", a.IPv6Prefix)
	}
}

func (v *validator) mss(at string, vip *VIP) {
	switch {
	case vip.MSS == 0:
	case vip.Protocol != TCP:
		v.fail(at, "only tcp has one, this is %s", vip.Protocol)
	case vip.MSS < MinMSS || vip.MSS > MaxMSS:
		v.fail(at, "%d is out of range %d to %d, or 0 to leave it as it is", vip.MSS, MinMSS, MaxMSS)
	}
}

// synCookies refuses them where the balancer cannot speak for the backend: it must see
// what that answers.
func (v *validator) synCookies(at string, vip *VIP) {
	switch {
	case vip.SYNCookies == 0:
	case vip.Protocol != TCP:
		v.fail(at, "only tcp has SYNs, this is %s; set it to 0", vip.Protocol)
	case !vip.Mode.Translates():
		v.fail(at, "mode %s does not see what backends answer, so the balancer cannot answer for them; use mode nat or fullnat, or 0", vip.Mode)
	case vip.SYNCookies > MaxSYNRate:
		v.fail(at, "%d is out of range 1 to %d, or 0 to let all SYNs through", vip.SYNCookies, MaxSYNRate)
	}
}

// service is what an endpoint's ports are ports of.
type service struct {
	address  netip.Addr
	protocol Protocol
}

// claim is an endpoint's hold on the ports of a service.
type claim struct {
	vip   *VIP
	ports PortRange
}

// clashes refuses endpoints of which neither takes precedence.
func (v *validator) clashes(vips []VIP) {
	exact := map[service]map[uint16]*VIP{}
	wide := map[service][]claim{}
	for i := range vips {
		vip := &vips[i]
		for _, e := range vip.Endpoints {
			s := service{e.Address, vip.Protocol}
			if !e.Ports.Single() {
				v.clash(claim{vip, e.Ports}, e, wide[s])
				wide[s] = append(wide[s], claim{vip, e.Ports})
				continue
			}
			if exact[s] == nil {
				exact[s] = map[uint16]*VIP{}
			}
			if other := exact[s][e.Ports.First]; other != nil {
				v.overlap(claim{vip, e.Ports}, e, claim{other, e.Ports})
			}
			exact[s][e.Ports.First] = vip
		}
	}
}

// clash reports the first of the claims that clashes with a range of ports.
func (v *validator) clash(c claim, e Endpoint, others []claim) {
	for _, other := range others {
		if other.ports.clashes(c.ports) {
			v.overlap(c, e, other)
			return
		}
	}
}

func (v *validator) overlap(c claim, e Endpoint, other claim) {
	at := fmt.Sprintf("VIP %q", c.vip.Name)
	switch same := c.vip == other.vip; {
	case same && c.ports == other.ports:
		v.fail(at+", endpoints", "%s/%s is given twice", e, c.vip.Protocol)
	case same:
		v.fail(at+", endpoints", "%s/%s overlaps %s", e, c.vip.Protocol, Endpoint{e.Address, other.ports})
	case c.ports == other.ports:
		v.fail(at, "overlaps VIP %q: both have %s/%s", other.vip.Name, e, c.vip.Protocol)
	default:
		v.fail(at, "overlaps VIP %q: %s/%s, and there %s", other.vip.Name, e, c.vip.Protocol, Endpoint{e.Address, other.ports})
	}
}

// fragments refuses VIPs that a fragment cannot tell apart: it has no ports.
func (v *validator) fragments(vips []VIP) {
	hashed := map[service]*VIP{}
	for i := range vips {
		vip := &vips[i]
		if vip.Fragments != FragmentsHash {
			continue
		}
		for _, e := range vip.Endpoints {
			s := service{e.Address, vip.Protocol}
			if other := hashed[s]; other != nil && other != vip {
				v.fail(fmt.Sprintf("VIP %q, fragments", vip.Name), "VIP %q hashes the fragments of %s/%s already, and a fragment does not tell its port; only one of them may",
					other.Name, e.Address, vip.Protocol)
				break
			}
			hashed[s] = vip
		}
	}
}

// separate refuses backends that have the address of a VIP.
func (v *validator) separate(s *State) {
	addresses := map[netip.Addr]string{}
	for i := range s.VIPs {
		for _, e := range s.VIPs[i].Endpoints {
			addresses[e.Address] = s.VIPs[i].Name
		}
	}
	for _, p := range s.Pools {
		for _, b := range p.Backends {
			if name, isVIP := addresses[b.Address]; isVIP && b.Address.IsValid() {
				v.fail(fmt.Sprintf("pool %q, backend %s", p.Name, b), "this is the address of VIP %q; a backend needs an address of its own", name)
			}
		}
	}
}

// vipAndPool checks what a VIP asks of its pool.
func (v *validator) vipAndPool(at string, vip *VIP, pools map[string]*Pool) {
	p := pools[vip.Pool]
	if p == nil {
		known := make([]string, 0, len(pools))
		for name := range pools {
			known = append(known, name)
		}
		v.errs = append(v.errs, &FieldError{Path: at + ", pool", Reason: notFound("pool", vip.Pool, "", known).Error()})
		return
	}
	if len(p.Backends) == 0 {
		v.fail(at+", pool", "pool %q has no backends; add one first: steelyard backend add %s ADDRESS", p.Name, p.Name)
	}
	if !vip.Mode.TranslatesPort() {
		v.samePorts(at, vip, p)
	}
	if vip.Mode == ModeNAT {
		v.sameFamily(at, vip, p)
	}
	v.countable(at, vip, p)
}

// countable refuses backends with a limit of connections where these are not remembered.
func (v *validator) countable(at string, vip *VIP, p *Pool) {
	// So do all of mode fullnat.
	if vip.Tracking == TrackingAlways || vip.Mode == ModeFullNAT {
		return
	}
	for i := range p.Backends {
		if b := &p.Backends[i]; b.MaxConnections > 0 {
			v.fail(at+", tracking", "backend %s in pool %q has max_connections %d, and tracking %s remembers no connection of a settled slot, so they cannot be counted; use tracking always or mode fullnat, or set the backend's max_connections to 0",
				b, p.Name, b.MaxConnections, vip.Tracking)
			return
		}
	}
}

// samePorts refuses backends on another port than the one that clients address.
func (v *validator) samePorts(at string, vip *VIP, p *Pool) {
	for i := range p.Backends {
		b := &p.Backends[i]
		if b.Port == 0 {
			continue
		}
		for _, e := range vip.Endpoints {
			if e.Ports != Port(b.Port) {
				v.fail(at, "mode %s cannot translate port %s to port %d of backend %s in pool %q; leave the backend's port out and let it listen on the VIP's, or use mode nat or fullnat",
					vip.Mode, e.Ports, b.Port, b, p.Name)
				break
			}
		}
	}
}

// serverIDs makes sure that a connection ID names one backend.
func (v *validator) serverIDs(at string, p *Pool) {
	owner := map[ServerID]*Backend{}
	first := map[uint8]ServerID{}
	for i := range p.Backends {
		b := &p.Backends[i]
		bat := fmt.Sprintf("%s, backend %s, server_id", at, b)
		configs := map[uint8]bool{}
		for _, id := range b.ServerIDs {
			if id.Config > MaxServerIDConfig || len(id.ID) < 1 || len(id.ID) > MaxServerIDLength {
				v.fail(bat, "%s is out of range: want a configuration of 0 to %d and 1 to %d bytes", id, MaxServerIDConfig, MaxServerIDLength)
				continue
			}
			if configs[id.Config] {
				v.fail(bat, "has two of configuration %d", id.Config)
			}
			configs[id.Config] = true
			if other := owner[id]; other != nil && other != b {
				v.fail(bat, "%s is that of backend %s already", id, other)
			}
			owner[id] = b
			if f, known := first[id.Config]; known && len(f.ID) != len(id.ID) {
				v.fail(bat, "%s has %d bytes, others of configuration %d in the pool have %d; give a new length a new configuration", id, len(id.ID), id.Config, len(f.ID))
			} else if !known {
				first[id.Config] = id
			}
		}
	}
}
