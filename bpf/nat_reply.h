/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Replies: packets from backends back to clients, in the VIP's name. Of a fullnat VIP the
 * address and port that a packet is for are the place of its translation. Of a nat VIP
 * the address and port that it comes from say which VIP's they are, and nothing of the
 * connection is remembered; the way to the client is what the kernel's routes say.
 */
#pragma once

#include "nat_fragment.h"
#include "syn_ask.h"

#define AF_INET 2
#define AF_INET6 10

/* Whether a packet that is for no VIP may be a backend's answer. */
step bool may_be_reply(const struct packet *pkt)
{
	if (nat_sources_ipv4 | nat_sources_ipv6 && nat_source_number(&pkt->destination) != NAT_NONE)
		return true;
	return current_vip_table()->replies;
}

/* The entry of a backend's answers, by where they come from; NULL if there is none. */
step struct vip_entry *find_reply(const struct address *source, u8 protocol, __be16 port)
{
	struct vip_table *table = current_vip_table();
	struct vip_entry *e;

	if (!table->replies)
		return NULL;
	e = find_key(table, source, ENDPOINT_REPLY | endpoint(protocol, port));
	if ((e && port) || !table->wide)
		return e;
	e = find_key(table, source, ENDPOINT_REPLY | endpoint(protocol, 0));
	return e && e->flags & VIP_RANGES ? choose_range(e, bpf_ntohs(port)) : e;
}

/* The VIP's endpoint in whose name a backend answers. */
step struct nat_endpoint *answering_endpoint(const struct address *source, u8 protocol, __be16 port)
{
	struct vip_entry *e = find_reply(source, protocol, port);
	u32 index;

	if (!e)
		return NULL;
	index = e->terms;
	return bpf_map_lookup_elem(&nat_endpoints, &index);
}

/*
 * Asks the kernel for the way to a client. Returns a BPF_FIB_LKUP_RET; where it is
 * SUCCESS the hop is set.
 */
side_step u32 find_way(struct xdp_md *ctx, const struct tuple *to, u32 protocol, u32 length,
		       struct hop *hop)
{
	struct bpf_fib_lookup fib = {};
	u32 result;

	if (!to || !hop)
		return BPF_FIB_LKUP_RET_UNREACHABLE;
	fib.l4_protocol = protocol;
	fib.sport = to->ports;
	fib.dport = to->ports >> 16;
	fib.tot_len = length;
	fib.ifindex = ctx->ingress_ifindex;
	if (is_mapped(&to->destination)) {
		fib.family = AF_INET;
		fib.ipv4_src = unmap_ipv4(&to->source);
		fib.ipv4_dst = unmap_ipv4(&to->destination);
	} else {
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_src, &to->source, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &to->destination, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	hop->ifindex = fib.ifindex;
	hop->mtu = fib.tot_len;
	hop->vlan = 0;
	/* Destination, then source, as on the wire. */
	__builtin_memcpy(hop->mac, fib.dmac, ETH_ALEN);
	__builtin_memcpy((void *)hop->mac + ETH_ALEN, fib.smac, ETH_ALEN);
	return result;
}

/* Sends a translated answer out of an interface. */
step enum reason transmit_reply(struct xdp_md *ctx, u32 ifindex)
{
	if (ifindex == ctx->ingress_ifindex)
		return TX_REPLY;
	if (bpf_redirect_map(&egress, ifindex, 0) != XDP_REDIRECT)
		return DROP_UNRESOLVED;
	return REDIRECT_REPLY;
}

/* Whether the program may send out of an interface: it cannot out of all kinds. */
step bool sends_through(struct xdp_md *ctx, u32 ifindex)
{
	return ifindex == ctx->ingress_ifindex || bpf_map_lookup_elem(&egress, &ifindex);
}

/* Translates an answer of a nat VIP's and leaves it to the kernel to send. */
step enum reason pass_reply(struct xdp_md *ctx, const struct packet *pkt, const struct course *c)
{
	u64 difference = address_difference(&c->from, &c->to);

	if (pkt->fragment != LATER_FRAGMENT &&
	    !translate_transport(ctx, pkt->l4, pkt->protocol, c->to.ports, difference))
		return DROP_INTERNAL;
	if (!translate_ip(ctx, pkt->l3 & L3_MASK, pkt->ipv6, &c->to, difference))
		return DROP_INTERNAL;
	return PASS_REPLY;
}

/* Sends an answer of a nat VIP's, whose tuples are known, to its client. */
step enum reason send_by_routes(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	u32 result = find_way(ctx, &c->to, pkt->protocol, pkt->length, &c->hop);
	enum reason reason;

	/* It is for this host, or the host forwards nothing: no answer to a client of ours. */
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return PASS_NOT_VIP;
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return tell(ctx, pkt, DROP_TOO_BIG, c->hop.mtu);
	if (result != BPF_FIB_LKUP_RET_SUCCESS || !sends_through(ctx, c->hop.ifindex))
		return pass_reply(ctx, pkt, c);
	if (pkt->ttl <= 1)
		return tell(ctx, pkt, DROP_TTL_EXCEEDED, 0);
	reason = carry_packet(ctx, pkt, c);
	return reason == TX_FORWARDED ? transmit_reply(ctx, c->hop.ifindex) : reason;
}

/* Gives a backend's packet to a client the name of the VIP's endpoint. */
step void answer_as(struct course *c, const struct nat_endpoint *e)
{
	__be16 port = c->from.ports;

	c->to.source = e->address;
	c->to.destination = c->from.destination;
	c->to.ports = pair_ports(e->port ? e->port : port, c->from.ports >> 16);
}

/* A backend's packet, perhaps an answer of a nat VIP's. */
step enum reason nat_reply(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct nat_endpoint *e = answering_endpoint(&c->from.source, pkt->protocol, pkt->ports);

	if (!e)
		return PASS_NOT_VIP;
	answer_as(c, e);
	if (e->flags & VIP_SYN_COOKIES && !c->syn && may_splice(e->vip) &&
	    ask_of_backend(ctx, c, e->vip, MODE_NAT) != TX_FORWARDED)
		return DROP_INTERNAL;
	if (pkt->fragment)
		remember_value(pkt, (u64)pkt->protocol << 16 | (u16)c->from.ports, MODE_NAT);
	return send_by_routes(ctx, pkt, c);
}

/* Whether a packet comes from the backend of its translation. */
step bool is_from_backend(const struct course *c, const struct translation *t, u64 state)
{
	u32 index = flow_backend(state);
	struct backend *b = bpf_map_lookup_elem(&backends, &index);
	__be16 port = c->from.ports;

	if (!b || !is_same_address(&b->outer_destination, &c->from.source))
		return false;
	return port == (b->port ? b->port : (__be16)(t->ports >> 16));
}

/* Reads where a translation's client is; false if it has changed meanwhile. */
step bool read_way_back(struct translation *t, u64 state, struct course *c)
{
	const u32 *mac = (const void *)t->mac;

	c->to.source = t->address;
	c->to.destination = t->client;
	c->to.ports = pair_ports(t->ports >> 16, t->ports);
	c->hop.mac[0] = mac[0];
	c->hop.mac[1] = mac[1];
	c->hop.mac[2] = mac[2];
	c->hop.ifindex = t->ifindex;
	c->hop.vlan = t->vlan;
	c->backend = flow_backend(state);
	return nat_generation(*(volatile u64 *)&t->state) == nat_generation(state);
}

/* The translation of a packet from a backend, with its state; NULL if there is none. */
step struct translation *find_translation(struct course *c, u32 number, u8 protocol, u64 *state)
{
	struct translation *t;

	c->index = nat_index(number, protocol, c->from.ports >> 16);
	t = translation_at(c->index);
	if (!t)
		return NULL;
	*state = *(volatile u64 *)&t->state;
	if (!(*state >> FLOW_FLAGS_SHIFT & NAT_USED) || !is_from_backend(c, t, *state))
		return NULL;
	return read_way_back(t, *state, c) ? t : NULL;
}

/* Sends an answer of a fullnat VIP's the way that its client's packets come. */
step enum reason send_back(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	int more = growth(pkt, &c->to);
	u32 mtu = pkt->length + more;
	enum reason reason;

	if (pkt->ttl <= 1)
		return tell(ctx, pkt, DROP_TTL_EXCEEDED, 0);
	if (bpf_check_mtu(ctx, c->hop.ifindex, &mtu, 0, 0) == BPF_MTU_CHK_RET_FRAG_NEEDED)
		return tell(ctx, pkt, DROP_TOO_BIG, mtu - more);
	reason = carry_packet(ctx, pkt, c);
	return reason == TX_FORWARDED ? transmit_reply(ctx, c->hop.ifindex) : reason;
}

step u64 backend_flags(const struct packet *pkt)
{
	if (!closes(pkt))
		return NAT_REPLIED;
	return NAT_REPLIED | (resets(pkt) ? NAT_RESET : NAT_BACKEND_CLOSED);
}

/* A packet to an address that fullnat's connections come from. */
step enum reason fullnat_reply(struct xdp_md *ctx, struct packet *pkt, struct course *c, u32 number)
{
	struct translation *t;
	u64 state;

	t = find_translation(c, number, pkt->protocol, &state);
	if (!t)
		return PASS_NOT_VIP;
	if (state & NAT_FLAG(NAT_SPLICED) && !c->syn)
		return ask_of_backend(ctx, c, t->vip, MODE_FULLNAT);
	see_connection(t, state, backend_flags(pkt));
	if (pkt->fragment)
		remember_translation(pkt, c->index);
	return send_back(ctx, pkt, c);
}
