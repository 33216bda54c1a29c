/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fragments of packets of VIPs that translate: the later ones, which tell no ports. */
#pragma once

#include "nat_reply.h"

/* Remembers where the fragments of a client's packet go, whose first one this is. */
step void keep_to_backend(struct packet *pkt, const struct vip_entry *vip, struct course *c)
{
	struct route route = { .backend = c->backend, .vip = vip->vip, .mode = vip->mode };

	if (c->index != NAT_NONE) {
		remember_translation(pkt, c->index);
		return;
	}
	keep_together(pkt, &route, vip->flags & VIP_HASHES_FRAGMENTS);
	c->backend = route.backend;
}

/* Finds the course of a fragment of a client's packet that comes before the first one. */
step enum reason early_fragment(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	struct vip_entry *vip = may_be_flow(pkt) ? find_fragment_vip(pkt) : NULL;
	enum reason reason;

	if (!vip || vip->mode != MODE_NAT)
		return DROP_FRAGMENT_EARLY;
	reason = guard(ctx, pkt, vip->vip, vip->flags);
	if (reason != TX_FORWARDED)
		return reason;
	reason = find_by_slot(ctx, pkt, vip, c);
	if (reason != TX_FORWARDED)
		return reason;
	keep_to_backend(pkt, vip, c);
	c->vip = vip->vip;
	c->mode = vip->mode;
	return TX_FORWARDED;
}

/* Finds the course of a later fragment of a client's packet. */
step enum reason fragment_to_backend(struct xdp_md *ctx, struct packet *pkt, struct course *c,
				     u64 state)
{
	struct translation *t;

	c->index = NAT_NONE;
	c->mode = flow_flags(state) & FRAGMENT_MODE;
	c->vip = state >> FLOW_VIP_SHIFT & 0xffff;
	if (c->mode == MODE_FULLNAT) {
		t = recall_translation(c, state >> FLOW_BACKEND_SHIFT & FRAGMENT_VALUE_MASK,
				       &state);
		if (!t)
			return DROP_FRAGMENT_EARLY;
		c->vip = t->vip;
	}
	c->backend = flow_backend(state);
	return guard(ctx, pkt, c->vip, VIP_GUARDED);
}

/* A later fragment of a backend's packet. */
step enum reason fragment_reply(struct xdp_md *ctx, struct packet *pkt, struct course *c, u64 state)
{
	u64 value = state >> FLOW_BACKEND_SHIFT & FRAGMENT_VALUE_MASK, now;
	struct nat_endpoint *e;
	struct translation *t;

	if ((flow_flags(state) & FRAGMENT_MODE) == MODE_FULLNAT) {
		t = recall_translation(c, value, &now);
		return t && read_way_back(t, now, c) ? send_back(ctx, pkt, c) : DROP_FRAGMENT_EARLY;
	}
	c->from.ports = value & 0xffff;
	/* An IPv6 fragment may have what hides its protocol; its first one had none of it. */
	e = answering_endpoint(&c->from.source, value >> 16 & 0xff, value & 0xffff);
	if (!e)
		return PASS_NOT_VIP;
	answer_as(c, e);
	return send_by_routes(ctx, pkt, c);
}

/* Finds the course of a later fragment to a VIP. */
step enum reason find_fragment(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u64 state = recall_fragment(fragment_key(pkt));

	return state ? fragment_to_backend(ctx, pkt, c, state) : early_fragment(ctx, pkt, c);
}

/* A later fragment that is for no VIP. */
step enum reason return_fragment(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u64 state = recall_fragment(fragment_key(pkt));

	return state ? fragment_reply(ctx, pkt, c, state) : PASS_NOT_VIP;
}
