/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about packets of VIPs that translate, in both directions: what they quote
 * is translated as well, back to how the host that hears of it has sent it (RFC 5508,
 * section 4). As the quoted packet goes the other way, its tuple is the reverse of that
 * of a packet of the same flow that goes the error's.
 */
#pragma once

#include "nat_error_over.h"
#include "nat_reply.h"

/* Makes the error about a flow one of a flow's own packets: sets its tuple. */
step void follow_flow(struct packet *pkt, struct course *c)
{
	c->from.source = c->quoted_tuple.destination;
	c->from.destination = c->quoted_tuple.source;
	c->from.ports = c->quoted.ports;
	pkt->addresses = c->quoted.addresses;
	pkt->ports = c->quoted.ports;
	pkt->protocol = c->quoted.protocol;
	pkt->quoted_l4 = c->quoted.l4;
}

/* Translates the quoted IP header. Returns by how much the sum of the quote grows. */
step u64 translate_quoted_ip(struct xdp_md *ctx, const struct shape *pkt, const struct tuple *to,
			     u64 difference)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (pkt->quoted & L4_MASK);
	u16 before;

	if (pkt->ipv6) {
		struct ipv6hdr *ip6 = ip;

		if ((void *)(ip6 + 1) > end)
			return 0;
		__builtin_memcpy(&ip6->saddr, &to->destination, sizeof(ip6->saddr));
		__builtin_memcpy(&ip6->daddr, &to->source, sizeof(ip6->daddr));
		return difference;
	}
	struct iphdr *ip4 = ip;

	if ((void *)(ip4 + 1) > end)
		return 0;
	ip4->saddr = unmap_ipv4(&to->destination);
	ip4->daddr = unmap_ipv4(&to->source);
	before = ip4->check;
	ip4->check = adjust_checksum(before, difference);
	return difference + word_difference(before, ip4->check);
}

step bool adjust_icmp_checksum(struct xdp_md *ctx, u32 l4, u64 difference)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmp_header *icmp = data + (l4 & L4_MASK);

	if ((void *)(icmp + 1) > end)
		return false;
	icmp->checksum = adjust_checksum(icmp->checksum, difference);
	return true;
}

/*
 * Translates an error and what it quotes, whose flow has other addresses from here on.
 * Returns whether it could. By itself for the sake of its caller's stack.
 */
side_step u32 translate_error(struct xdp_md *ctx, const struct course *c)
{
	u64 inside, outside, grown;

	if (!c)
		return false;
	inside = address_difference(&c->from, &c->to);
	outside = address_difference(&c->outer, &c->outer_to);
	grown = translate_quoted_transport(ctx, c->shape.quoted_l4, quoted_transport(&c->shape),
					   reverse_ports(c->to.ports), inside);
	grown += translate_quoted_ip(ctx, &c->shape, &c->to, inside);
	/* The checksum of ICMPv6 covers the addresses outside as well (RFC 4443, 2.3). */
	if (c->shape.ipv6)
		grown += outside;
	return adjust_icmp_checksum(ctx, c->shape.l4, grown) &&
	       translate_ip(ctx, c->shape.l3 & L3_MASK, c->shape.ipv6, &c->outer_to, outside);
}

/* Sends a translated error behind the link header of a hop. */
step enum reason carry_error(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	u32 link = link_length(&c->hop);

	set_error_shape(pkt, c);
	if (is_mapped(&c->to.destination) == pkt->ipv6)
		return carry_error_over(ctx, c);
	if (!translate_error(ctx, c) || !decrement_ttl(ctx, pkt->l3, pkt->ipv6))
		return DROP_INTERNAL;
	if (pkt->l3 != link && bpf_xdp_adjust_head(ctx, (int)pkt->l3 - (int)link))
		return DROP_NO_HEADROOM;
	return write_link(ctx, &c->hop, pkt->ipv6) ? TX_FORWARDED : DROP_INTERNAL;
}

/* Translates an error and leaves it to the kernel to send. */
step enum reason pass_error(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	set_error_shape(pkt, c);
	return translate_error(ctx, c) ? PASS_REPLY : DROP_INTERNAL;
}

/* An error about a packet to a client, whose sender was a backend in a VIP's name. */
step enum reason error_to_backend(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct vip_entry *vip = find_vip(pkt);
	struct backend *b;
	enum reason reason;

	if (!vip || vip->mode < MODE_NAT)
		return PASS_NOT_VIP;
	reason = guard(ctx, pkt, vip->vip, vip->flags);
	if (reason != TX_FORWARDED)
		return reason;
	reason = course_to_backend(ctx, pkt, vip, c);
	count_for_vip(vip->vip, pkt);
	if (reason != TX_FORWARDED)
		return reason;
	if (c->backend < OWNER_FIRST)
		return DROP_NO_BACKEND;
	b = bpf_map_lookup_elem(&backends, &c->backend);
	if (!b)
		return DROP_INTERNAL;
	if (!(b->modes & 1 << (vip->mode & 7)))
		return DROP_UNRESOLVED;
	if (pkt->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	to_backend(c, b, pkt->ports);
	hop_to_backend(&c->hop, b);
	c->outer_to = c->to;
	/* Backends of nat know the way to everybody, others to this host. */
	if (vip->mode == MODE_NAT)
		c->outer_to.source = c->outer.source;
	reason = carry_error(ctx, pkt, c);
	if (reason != TX_FORWARDED)
		return reason;
	reason = transmit_to_backend(ctx, &c->hop);
	if (verdict(reason) != XDP_DROP)
		count_for_backend(c->backend, pkt);
	return reason;
}

/* An error about a packet to a backend, that a client sent through a fullnat VIP. */
step enum reason fullnat_error(struct xdp_md *ctx, struct packet *pkt, struct course *c, u32 number)
{
	u64 state;
	enum reason reason;

	if (!find_translation(c, number, pkt->protocol, &state))
		return PASS_NOT_VIP;
	if (pkt->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	c->outer_to = c->to;
	reason = carry_error(ctx, pkt, c);
	return reason == TX_FORWARDED ? transmit_reply(ctx, c->hop.ifindex) : reason;
}

/* The same through a nat VIP. */
step enum reason nat_error(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct nat_endpoint *e =
		answering_endpoint(&c->from.source, pkt->protocol, (__be16)c->from.ports);
	enum reason reason;
	u32 result;

	if (!e)
		return PASS_NOT_VIP;
	answer_as(c, e);
	c->outer_to = c->outer;
	/* A router on the way speaks for itself, a backend in the VIP's name. */
	if (is_same_address(&c->outer.source, &c->from.source))
		c->outer_to.source = c->to.source;
	result = find_way(ctx, &c->outer_to, IPPROTO_ICMP, pkt->length, &c->hop);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED || result == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return PASS_NOT_VIP;
	if (pkt->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (result != BPF_FIB_LKUP_RET_SUCCESS || !sends_through(ctx, c->hop.ifindex))
		return pass_error(ctx, pkt, c);
	reason = carry_error(ctx, pkt, c);
	return reason == TX_FORWARDED ? transmit_reply(ctx, c->hop.ifindex) : reason;
}

/* An ICMP error, perhaps about a packet of ours. */
step enum reason translate_icmp_error(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u32 number;

	c->outer = c->from;
	pkt->quoted = pkt->l4 + sizeof(struct icmp_header);
	if (parse_quoted(ctx, pkt->quoted, pkt->ipv6, &c->quoted) != PARSED_FLOW)
		return PASS_NOT_VIP;
	/* What stands behind the packet in the frame is none of its quote. */
	if (c->quoted.l4 + sizeof(u32) > pkt->l3 + pkt->length)
		return PASS_NOT_VIP;
	if (!load_addresses(ctx, pkt->quoted & L4_MASK, pkt->ipv6, &c->quoted_tuple))
		return PASS_NOT_VIP;
	/* The sender of the quoted packet is who must hear of it. */
	if (!is_same_address(&c->quoted_tuple.source, &c->outer.destination))
		return PASS_NOT_VIP;
	follow_flow(pkt, c);
	if (for_vip_address(pkt))
		return error_to_backend(ctx, pkt, c);
	number = nat_source_number(&c->outer.destination);
	return number != NAT_NONE ? fullnat_error(ctx, pkt, c, number) : nat_error(ctx, pkt, c);
}
