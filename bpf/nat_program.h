/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that packets of VIPs that translate are handed to, whichever way they go:
 * whole ones, fragments, and ICMP errors about them.
 */
#pragma once

#include "nat_error.h"
#include "nat_part.h"

/* A client's packet. */
step enum reason translate_request(struct xdp_md *ctx, struct packet *pkt,
				   const struct vip_entry *vip, struct course *c)
{
	enum reason reason = guard(ctx, pkt, vip->vip, vip->flags);

	if (reason != TX_FORWARDED)
		return reason;
	reason = course_to_backend(ctx, pkt, vip, c);
	if (reason == TX_FORWARDED) {
		if (pkt->fragment)
			keep_to_backend(pkt, vip, c);
		return send_to_backend(ctx, pkt, vip->vip, vip->mode, c);
	}
	count_packet(&vip_counters, vip->vip, pkt);
	return reason == DROP_NO_CONNECTION ? refuse_connection(ctx, pkt) : reason;
}

/* A packet that tells ports: to a VIP, or from a backend. */
step enum reason translate_flow(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct vip_entry *vip = find_vip(pkt);
	u32 number;

	if (vip)
		return vip->mode >= MODE_NAT ? translate_request(ctx, pkt, vip, c) : PASS_NOT_VIP;
	number = nat_source_number(&pkt->destination);
	return number != NAT_NONE ? fullnat_reply(ctx, pkt, c, number) : nat_reply(ctx, pkt, c);
}

/* The course of a packet that has been parsed, as far as that tells; NULL if there is none. */
step struct course *set_out(struct xdp_md *ctx, const struct packet *pkt)
{
	u32 zero = 0;
	struct course *c = bpf_map_lookup_elem(&courses, &zero);

	if (!c || !load_addresses(ctx, pkt->l3 & L3_MASK, pkt->ipv6, &c->from))
		return NULL;
	c->from.ports = pkt->ports;
	return c;
}

SEC("xdp.frags")
int steelyard_nat(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt, false);
	struct course *c = set_out(ctx, &pkt);

	return leave(c && parsed == PARSED_FLOW ? translate_flow(ctx, &pkt, c) : DROP_INTERNAL);
}

SEC("xdp.frags")
int steelyard_nat_fragment(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt, true);
	struct course *c = set_out(ctx, &pkt);

	if (c && parsed == PARSED_LATER_FRAGMENT)
		return leave(translate_fragment(ctx, &pkt, c));
	return leave(c && parsed == PARSED_FLOW ? translate_flow(ctx, &pkt, c) : DROP_INTERNAL);
}

SEC("xdp.frags")
int steelyard_nat_error(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt, true);
	struct course *c = set_out(ctx, &pkt);

	if (!c || parsed != PARSED_ICMP_ERROR)
		return leave(DROP_INTERNAL);
	return leave(translate_icmp_error(ctx, &pkt, c));
}
