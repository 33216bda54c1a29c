package model

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// fullNAT refuses what a mode cannot do that remembers a source port for every flow.
func (v *validator) fullNAT(at string, vip *VIP) {
	if vip.Tracking == TrackingFlux || vip.Tracking == TrackingNone {
		v.fail(at+", tracking", "mode fullnat remembers every connection, with the source port that it gave it, so %s is not possible; use always", vip.Tracking)
	}
	if vip.Fragments == FragmentsHash {
		v.fail(at+", fragments", "mode fullnat cannot translate a fragment that comes before the one with the ports, so hash is not possible; use follow, or mode nat")
	}
}

// sameFamily refuses backends of another family than an endpoint.
func (v *validator) sameFamily(at string, vip *VIP, p *Pool) {
	isOf := func(a netip.Addr, ipv4 bool) bool { return a.IsValid() && a.Unmap().Is4() == ipv4 }
	for _, ipv4 := range []bool{true, false} {
		e := slices.IndexFunc(vip.Endpoints, func(e Endpoint) bool { return isOf(e.Address, ipv4) })
		b := slices.IndexFunc(p.Backends, func(b Backend) bool { return isOf(b.Address, !ipv4) })
		if e >= 0 && b >= 0 {
			v.fail(at, "mode nat cannot translate between IPv4 and IPv6, from %s to backend %s in pool %q; use mode fullnat, or a VIP and a pool of their own for each",
				vip.Endpoints[e], &p.Backends[b], p.Name)
			return
		}
	}
}

// reply is a range of ports from which a backend replies for an endpoint.
type reply struct {
	first, last uint16
	vip         *VIP
	endpoint    Endpoint
	// name is what a packet from one of the ports becomes.
	name replyName
}

// replyName is an address and a port, 0 for that which the packet has.
type replyName struct {
	address netip.Addr
	port    uint16
}

// member is a backend of a pool without its address.
type member struct {
	pool string
	port uint16
}

// replies makes sure that under nat the protocol, address and port of a packet from
// a backend tell the endpoint that the client addressed: nothing else remembers it.
func (v *validator) replies(vips []VIP, pools map[string]*Pool) {
	users := map[string][]*VIP{}
	var names []string
	for i := range vips {
		if vip := &vips[i]; vip.Mode == ModeNAT && pools[vip.Pool] != nil {
			if users[vip.Pool] == nil {
				names = append(names, vip.Pool)
			}
			users[vip.Pool] = append(users[vip.Pool], vip)
		}
	}
	seen := map[string]bool{}
	said := map[[2]*VIP]bool{}
	for _, host := range hosts(names, pools) {
		for _, protocol := range []Protocol{TCP, UDP} {
			// Hosts that are in the same pools with the same ports have the same replies.
			if key := fmt.Sprint(host.members, protocol); !seen[key] {
				seen[key] = true
				v.hostReplies(host, protocol, users, said)
			}
		}
	}
}

// host is an address with all backends that it is.
type host struct {
	address netip.Addr
	members []member
}

// hosts are those of the pools, in an order that does not depend on maps.
func hosts(names []string, pools map[string]*Pool) []host {
	byAddress := map[netip.Addr][]member{}
	for _, name := range names {
		for _, b := range pools[name].Backends {
			byAddress[b.Address] = append(byAddress[b.Address], member{name, b.Port})
		}
	}
	out := make([]host, 0, len(byAddress))
	for address, members := range byAddress {
		out = append(out, host{address, members})
	}
	slices.SortFunc(out, func(a, b host) int { return a.address.Compare(b.address) })
	return out
}

// hostReplies looks for two replies of a host that are the same but for their names.
// Each pair of VIPs is told of once.
func (v *validator) hostReplies(h host, protocol Protocol, users map[string][]*VIP, said map[[2]*VIP]bool) {
	all := v.repliesOf(h, protocol, users, said)
	slices.SortStableFunc(all, func(a, b reply) int { return cmp.Compare(a.first, b.first) })
	// Of those before, the one that reaches furthest, and the one of another name that does.
	var furthest, other *reply
	for i := range all {
		r := &all[i]
		before := furthest
		if before != nil && before.name == r.name {
			before = other
		}
		if before != nil && r.first <= before.last {
			v.ambiguous(h, r, before, said)
		}
		switch {
		case furthest == nil || furthest.name == r.name:
			furthest = further(furthest, r)
		case r.last > furthest.last:
			furthest, other = r, furthest
		default:
			other = further(other, r)
		}
	}
}

func further(a, b *reply) *reply {
	if a == nil || b.last > a.last {
		return b
	}
	return a
}

// repliesOf are all replies of a host, but those that no single port names.
func (v *validator) repliesOf(h host, protocol Protocol, users map[string][]*VIP, said map[[2]*VIP]bool) []reply {
	var out []reply
	for _, m := range h.members {
		for _, vip := range users[m.pool] {
			if vip.Protocol != protocol {
				continue
			}
			for _, e := range vip.Endpoints {
				switch {
				case m.port == 0 && e.Ports.Any():
					out = append(out, reply{1, math.MaxUint16, vip, e, replyName{e.Address, 0}})
				case m.port == 0:
					out = append(out, reply{e.Ports.First, e.Ports.Last, vip, e, replyName{e.Address, 0}})
				case e.Ports == Port(m.port):
					out = append(out, reply{m.port, m.port, vip, e, replyName{e.Address, 0}})
				case e.Ports.Single():
					out = append(out, reply{m.port, m.port, vip, e, replyName{e.Address, e.Ports.First}})
				default:
					v.manyToOne(h, m, vip, e, said)
				}
			}
		}
	}
	return out
}

func (v *validator) manyToOne(h host, m member, vip *VIP, e Endpoint, said map[[2]*VIP]bool) {
	if pair := [2]*VIP{vip}; !said[pair] {
		said[pair] = true
		v.fail(fmt.Sprintf("VIP %q", vip.Name), "mode nat cannot tell which port of %s/%s a reply of backend %s in pool %q is from; leave the backend's port out, or use mode fullnat",
			e, vip.Protocol, BackendID{h.address, m.port}, m.pool)
	}
}

func (v *validator) ambiguous(h host, a, b *reply, said map[[2]*VIP]bool) {
	const wayOut = "give them pools of their own, whose backends have other ports, or use mode fullnat"
	later, earlier := a, b
	if cmp.Or(cmp.Compare(a.vip.Name, b.vip.Name), a.endpoint.Compare(b.endpoint)) < 0 {
		later, earlier = b, a
	}
	pair := [2]*VIP{later.vip, earlier.vip}
	if said[pair] {
		return
	}
	said[pair] = true
	from := FormatEndpoint(h.address, max(a.first, b.first))
	at := fmt.Sprintf("VIP %q", later.vip.Name)
	if later.vip == earlier.vip {
		v.fail(at, "mode nat cannot tell whether %s/%s replies for %s or for %s; %s", from, a.vip.Protocol, later.endpoint, earlier.endpoint, wayOut)
		return
	}
	v.fail(at, "mode nat cannot tell whether %s/%s replies for %s or for %s of VIP %q; %s", from, a.vip.Protocol, later.endpoint, earlier.endpoint, earlier.vip.Name, wayOut)
}
