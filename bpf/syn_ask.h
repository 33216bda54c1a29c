/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which packets of VIPs with SYN cookies have to do with these, and are handed to
 * steelyard_syn before they go their way: SYNs, what may bring a cookie back, and what is
 * of a splice.
 */
#pragma once

#include "nat_path.h"
#include "parts.h"

/*
 * Whether a client's packet looks like one that brings a cookie back: a header and no more,
 * for it was granted no option, or a byte, to probe the window.
 */
step bool is_bare(const struct packet *pkt)
{
	return pkt->l3 + pkt->length - pkt->l4 <= sizeof(struct tcphdr) + 1 && !pkt->opener &&
	       !pkt->closer && !pkt->fragment;
}

#define NAT_FLAG(flag) ((u64)(flag) << FLOW_FLAGS_SHIFT)

/* The state of the translation of a client's packet to a fullnat VIP, 0 if there is none. */
step u64 session_state(struct packet *pkt, const struct tuple *client)
{
	struct translation *t;

	pkt->hash = flow_hash(pkt->addresses, pkt->ports, pkt->protocol);
	t = translation_at(find_session(client, pkt->hash, pkt->protocol, NAT_NONE));
	return t ? *(volatile u64 *)&t->state : 0;
}

/* Whether a session's client may go on with nothing but a cookie. */
step bool may_begin_anew(u64 session)
{
	return !(session & NAT_FLAG(NAT_REPLIED)) ||
	       session & NAT_FLAG(NAT_RESET | NAT_CLIENT_CLOSED);
}

/* Whether steelyard_syn is to look at a client's packet. */
step bool concerns_client(struct packet *pkt, const struct vip_entry *vip, struct course *c)
{
	u64 session;

	if (pkt->opener)
		return true;
	if (!may_splice(vip->vip))
		return false;
	if (vip->mode == MODE_FULLNAT) {
		session = session_state(pkt, &c->from);
		return session & NAT_FLAG(NAT_SPLICED) || may_begin_anew(session);
	}
	return (is_bare(pkt) && expects_cookies(vip->vip)) ||
	       bpf_map_lookup_elem(&splices, &c->from);
}

/* Hands a packet to steelyard_syn, and returns only if it cannot. */
step void ask_syn(struct xdp_md *ctx, struct course *c, u8 what, u32 vip, u8 mode)
{
	c->next = what;
	c->vip = vip;
	c->mode = mode;
	bpf_tail_call(ctx, &parts, PART_SYN);
	c->next = SYN_UNSEEN;
}

/* Hands a client's packet to steelyard_syn if it concerns that. Returns TX_FORWARDED if not. */
step enum reason ask_of_client(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			       struct course *c)
{
	if (!(vip->flags & VIP_SYN_COOKIES) || c->syn || !concerns_client(pkt, vip, c))
		return TX_FORWARDED;
	c->client = c->from;
	ask_syn(ctx, c, SYN_FROM_CLIENT, vip->vip, vip->mode);
	return DROP_INTERNAL;
}

/* The tuple of a client's packets, of that which answers to it have. */
step void turn_tuple(struct tuple *client, const struct tuple *answer)
{
	client->source = answer->destination;
	client->destination = answer->source;
	client->ports = pair_ports(answer->ports >> 16, answer->ports);
}

/* Hands a backend's packet, whose tuple for the client is known, to steelyard_syn. */
step enum reason ask_of_backend(struct xdp_md *ctx, struct course *c, u32 vip, u8 mode)
{
	turn_tuple(&c->client, &c->to);
	if (mode == MODE_NAT && !bpf_map_lookup_elem(&splices, &c->client))
		return TX_FORWARDED;
	ask_syn(ctx, c, SYN_FROM_BACKEND, vip, mode);
	return DROP_INTERNAL;
}
