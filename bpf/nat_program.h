/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that packets of VIPs that translate are handed to, whichever way they go:
 * whole ones, fragments, and ICMP errors about them.
 */
#pragma once

#include "nat_error.h"
#include "nat_part.h"

/* Finds the course of a client's packet. */
step enum reason find_course(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			     struct course *c)
{
	enum reason reason = TX_FORWARDED;

	/* What comes from steelyard_syn has been here before. */
	if (!c->syn)
		reason = guard(ctx, pkt, vip->vip, vip->flags);
	if (reason == TX_FORWARDED)
		reason = ask_of_client(ctx, pkt, vip, c);
	if (reason != TX_FORWARDED)
		return reason;
	c->vip = vip->vip;
	c->mode = vip->mode;
	reason = course_to_backend(ctx, pkt, vip, c);
	if (reason == TX_FORWARDED) {
		if (pkt->fragment)
			keep_to_backend(pkt, vip, c);
		return TX_FORWARDED;
	}
	count_for_vip(vip->vip, pkt);
	return reason == DROP_NO_CONNECTION ? refuse_connection(ctx, pkt) : reason;
}

/* A packet that tells ports, and is for no VIP: perhaps a backend's answer. */
step enum reason translate_reply(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u32 number = nat_source_number(&pkt->destination);

	return number != NAT_NONE ? fullnat_reply(ctx, pkt, c, number) : nat_reply(ctx, pkt, c);
}

/* A whole packet. */
step enum reason translate_flow(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	enum reason reason;

	if (c->entry.mode == MODE_NONE)
		return translate_reply(ctx, pkt, c);
	if (c->entry.mode < MODE_NAT)
		return PASS_NOT_VIP;
	reason = find_course(ctx, pkt, &c->entry, c);
	return reason == TX_FORWARDED ? send_to_backend(ctx, pkt, c) : reason;
}

/*
 * Has the verifier forget what it knows of a packet on each of the paths that lead here,
 * so that it looks at what follows once: what has been in a map is unknown to it.
 */
step void forget(struct packet *pkt, struct course *c)
{
	c->packet = *pkt;
	barrier();
	recall(pkt, c);
}

/* The same in fragments, of which only the first one tells ports. */
step enum reason translate_fragment(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	bool later = pkt->fragment == LATER_FRAGMENT;
	struct vip_entry *vip;
	enum reason reason;

	forget(pkt, c);
	if (!for_vip_address(pkt))
		return later ? return_fragment(ctx, pkt, c) : translate_reply(ctx, pkt, c);
	if (later) {
		reason = find_fragment(ctx, pkt, c);
	} else {
		vip = find_vip(pkt);
		if (!vip || vip->mode < MODE_NAT)
			return PASS_NOT_VIP;
		reason = find_course(ctx, pkt, vip, c);
	}
	if (reason != TX_FORWARDED)
		return reason;
	forget(pkt, c);
	return send_to_backend(ctx, pkt, c);
}

/* Begins the course of a packet of which all is known that it tells; false if it cannot. */
step bool set_out(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	if (!load_addresses(ctx, pkt->l3 & L3_MASK, pkt->ipv6, &c->from))
		return false;
	c->from.ports = pkt->ports;
	c->syn = c->next;
	c->next = SYN_UNSEEN;
	return true;
}

SEC("xdp.frags")
int steelyard_nat(struct xdp_md *ctx)
{
	struct course *c = this_course();
	struct packet pkt;

	if (!c)
		return leave(DROP_INTERNAL);
	recall(&pkt, c);
	return leave(set_out(ctx, &pkt, c) ? translate_flow(ctx, &pkt, c) : DROP_INTERNAL);
}

SEC("xdp.frags")
int steelyard_nat_fragment(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt);
	struct course *c = this_course();

	if (!c || !set_out(ctx, &pkt, c) ||
	    (parsed != PARSED_FLOW && parsed != PARSED_LATER_FRAGMENT))
		return leave(DROP_INTERNAL);
	return leave(translate_fragment(ctx, &pkt, c));
}

SEC("xdp.frags")
int steelyard_nat_error(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt);
	struct course *c = this_course();

	if (!c || !set_out(ctx, &pkt, c) || parsed != PARSED_ICMP_ERROR)
		return leave(DROP_INTERNAL);
	return leave(translate_icmp_error(ctx, &pkt, c));
}
