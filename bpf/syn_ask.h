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
	       !closes(pkt) && !pkt->fragment;
}

#define NAT_FLAG(flag) ((u64)(flag) << FLOW_FLAGS_SHIFT)

/* The state of the translation of a client's packets to a fullnat VIP, 0 if there is none. */
step u64 session_state(const struct tuple *client, u64 hash)
{
	struct translation *t;

	t = translation_at(find_session(client, hash, IPPROTO_TCP, NAT_NONE));
	return t ? *(volatile u64 *)&t->state : 0;
}

/* Whether a session's client may go on with nothing but a cookie. */
step bool may_begin_anew(u64 session)
{
	return !(session & NAT_FLAG(NAT_REPLIED)) ||
	       session & NAT_FLAG(NAT_RESET | NAT_CLIENT_CLOSED);
}

/*
 * Whether a client's packet to a VIP that has given cookies is one that steelyard_syn is to
 * look at. The course knows its tuple; hash is that of the flow.
 */
side_step u32 may_be_spliced(u64 hash, u32 vip, u32 mode, u32 bare)
{
	struct course *c = this_course();
	u64 session;

	if (!c)
		return false;
	if (mode == MODE_FULLNAT) {
		session = session_state(&c->from, hash);
		return session & NAT_FLAG(NAT_SPLICED) || may_begin_anew(session);
	}
	return (bare && expects_cookies(vip)) || bpf_map_lookup_elem(&splices, &c->from);
}

/* Whether steelyard_syn is to look at a client's packet. */
step bool concerns_client(const struct packet *pkt, const struct vip_entry *vip)
{
	u64 hash;

	if (pkt->opener)
		return true;
	if (!may_splice(vip->vip))
		return false;
	hash = flow_hash(pkt->addresses, pkt->ports, pkt->protocol);
	return may_be_spliced(hash, vip->vip, vip->mode, is_bare(pkt));
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

/*
 * Hands a client's packet to steelyard_syn if it concerns that; if it is a fragment in any case,
 * for want of room. Returns TX_FORWARDED if not.
 */
step enum reason ask_of_client(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			       struct course *c)
{
	if (!(vip->flags & VIP_SYN_COOKIES) || c->syn ||
	    !(pkt->fragment || concerns_client(pkt, vip)))
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

/* Whether a backend's packet, whose tuple for the client is known, is of a splice. */
side_step u32 answers_splice(void)
{
	struct course *c = this_course();

	if (!c)
		return false;
	turn_tuple(&c->client, &c->to);
	return !!bpf_map_lookup_elem(&splices, &c->client);
}

/* Hands a backend's packet to steelyard_syn if it is of a splice. Returns TX_FORWARDED if not. */
step enum reason ask_of_backend(struct xdp_md *ctx, struct course *c, u32 vip, u8 mode)
{
	/* Of fullnat the translation says so, though the splice may be forgotten. */
	if (!answers_splice() && mode == MODE_NAT)
		return TX_FORWARDED;
	ask_syn(ctx, c, SYN_FROM_BACKEND, vip, mode);
	return DROP_INTERNAL;
}
