/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The program that packets of VIPs that translate are handed to, whichever way they go. */
#pragma once

#include "nat_path.h"
#include "nat_reply.h"

/* A packet that tells ports: to a VIP, or from a backend. */
step enum reason translate_flow(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct vip_entry *vip = find_vip(pkt);
	enum reason reason;
	u32 number;

	if (vip && vip->mode >= MODE_NAT) {
		reason = course_to_backend(ctx, pkt, vip, c);
		if (reason == TX_FORWARDED)
			return send_to_backend(ctx, pkt, vip, c);
		count_packet(&vip_counters, vip->vip, pkt);
		return reason == DROP_NO_CONNECTION ? refuse_connection(ctx, pkt) : reason;
	}
	number = nat_source_number(&pkt->destination);
	return number != NAT_NONE ? fullnat_reply(ctx, pkt, c, number) : nat_reply(ctx, pkt, c);
}

SEC("xdp.frags")
int steelyard_nat(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt, true);
	u32 zero = 0;
	struct course *c = bpf_map_lookup_elem(&courses, &zero);

	if (parsed != PARSED_FLOW)
		return leave(PASS_NOT_VIP);
	if (!c || !load_addresses(ctx, pkt.l3 & L3_MASK, pkt.ipv6, &c->from))
		return leave(DROP_INTERNAL);
	c->from.ports = pkt.ports;
	return leave(translate_flow(ctx, &pkt, c));
}
