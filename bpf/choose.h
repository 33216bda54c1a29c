/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Choose: the backend of a packet's flow. For most VIPs it is what the slot says,
 * or the flow table; some want more to be looked at.
 */
#pragma once

#include "affinity.h"
#include "flow.h"
#include "mss.h"
#include "quic.h"
#include "slot.h"

/* A VIP's pool, prior pool, terms and flags in one word, from the lowest bits on. */
step u64 vip_word(const struct vip_entry *vip)
{
	return *(const u64 *)&vip->pool;
}

#define VIP_WORD_PRIOR_POOL 16
#define VIP_WORD_TERMS 32
#define VIP_WORD_FLAGS 48

/* Where in the frame the transport header and the client's address are, and its family. */
step u64 where_in(const struct packet *pkt)
{
	/* A packet that is no datagram of its own has no transport header to look into. */
	u32 l4 = pkt->quoted || pkt->fragment == LATER_FRAGMENT ? 0 : pkt->l4;

	return l4 | client_offset(pkt) << 16 | (u64)pkt->ipv6 << 32;
}

#define FOUND_OPENER (1ULL << 32)

/* The hash of a flow under the affinity that its VIP has, or had. */
step u64 hash_by(struct xdp_md *ctx, u64 vip, u64 where, enum which_affinity which, u64 hash)
{
	u32 terms = vip >> VIP_WORD_TERMS & 0xffff;

	return affine_hash(ctx, where >> 16 & 0xffff, where >> 32, which << 16 | terms, hash);
}

/*
 * The index of the backend of a flow of a VIP that is VIP_SPECIAL, with
 * FOUND_OPENER if the packet starts it: that of a QUIC packet is known only here.
 */
side_step u64 choose_specially(struct xdp_md *ctx, u64 flow, u64 vip, u64 where, u32 facts)
{
	u32 flags = vip >> VIP_WORD_FLAGS, prior_pool = vip >> VIP_WORD_PRIOR_POOL & 0xffff;
	u32 pool_index = vip & 0xffff, l4 = where & 0xffff, word, owner, prior, named = 0;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_index);
	u64 hash = flow, prior_hash, opener;

	if (!pool)
		return OWNER_NONE;
	if (flags & VIP_CLAMPS_MSS && facts & FACT_OPENER)
		clamp_mss(ctx, l4, mss_of(vip >> VIP_WORD_TERMS & 0xffff));
	if (flags & VIP_AFFINE)
		hash = hash_by(ctx, vip, where, AFFINITY_NOW, flow);
	if (flags & VIP_QUIC && l4) {
		u64 found =
			quic_peek(ctx, l4, facts >> FACT_VIP_SHIFT, vip >> VIP_WORD_TERMS & 0xffff);

		if (found & QUIC_OPENER)
			facts |= FACT_OPENER;
		if (ability(found) & KEEPS_FLOWS)
			named = found;
	}
	opener = facts & FACT_OPENER ? FOUND_OPENER : 0;
	word = slot_word(pool, hash);
	owner = backend_index(pool, word & SLOT_OWNER);
	if (named) {
		/* Where its owner is, a settled flow leaves no trace. */
		if (named != owner || asks_flow_table(flags, word))
			note_flow(hash, named, facts);
		return opener | named;
	}
	/* What an error quotes names nobody: the note of a flow away from its owner does. */
	if (!asks_flow_table(flags, word) && !(flags & VIP_QUIC && facts & FACT_PEEK))
		return opener | owner;
	prior_hash = hash;
	if (flags & VIP_CHANGES_AFFINITY) {
		prior_hash = hash_by(ctx, vip, where, AFFINITY_PRIOR, flow);
		rename_flow(prior_hash, hash);
	}
	prior = prior_backend(pool, flags, prior_pool, word, prior_hash);
	return opener | route_flow(hash, owner, prior, facts);
}

/* The index of the record of the backend that the packet's flow goes to, or of nobody. */
step u32 choose_backend(struct xdp_md *ctx, const struct pool *pool, const struct vip_entry *vip,
			struct packet *pkt)
{
	u32 flags = vip->flags, word, owner;
	u64 found;

	pkt->hash = flow_hash(pkt->addresses, pkt->ports, pkt->protocol);
	if (flags & VIP_SPECIAL) {
		found = choose_specially(ctx, pkt->hash, vip_word(vip), where_in(pkt),
					 flow_facts(vip, pkt));
		pkt->opener = found & FOUND_OPENER;
		return found;
	}
	word = slot_word(pool, pkt->hash);
	owner = backend_index(pool, word & SLOT_OWNER);
	if (!asks_flow_table(flags, word))
		return owner;
	return route_flow(pkt->hash, owner,
			  prior_backend(pool, flags, vip->prior_pool, word, pkt->hash),
			  flow_facts(vip, pkt));
}
