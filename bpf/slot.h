/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Slot: which backend a flow belongs to. A settled slot answers by itself, and no
 * state of the flow is read or written. For a slot in flux the flow table knows
 * more (flow.h).
 */
#pragma once

#include "affinity.h"
#include "flow.h"
#include "maps.h"
#include "quic.h"

/* The slot of a hash within a table, by multiplication instead of modulo. */
step u32 slot_of(u64 hash, u32 slots)
{
	return ((hash >> 32) * slots) >> 32;
}

/* The word of the flow's slot; that of nobody if the maps contradict each other. */
step u32 slot_word(const struct pool *pool, u64 hash)
{
	u32 at = pool->slot_base + slot_of(hash, pool->slots);
	u32 line_index = at / 16;
	struct slot_line *line = bpf_map_lookup_elem(&slots, &line_index);

	return line ? line->slot[at % 16] : OWNER_NONE;
}

/* The index of an owner's record; that of nobody is its number. */
step u32 backend_index(const struct pool *pool, u32 owner)
{
	return owner < OWNER_FIRST ? owner : pool->backend_base + owner;
}

step u32 prior_of(const struct pool *pool, u32 word)
{
	return backend_index(pool, word >> SLOT_PRIOR_SHIFT & SLOT_OWNER);
}

/* The backend to which flows belong that began before the VIP or its slot went in flux. */
step u32 prior_backend(const struct pool *pool, const struct vip_entry *vip, u32 word, u64 hash)
{
	u32 index = vip->prior_pool;
	struct pool *prior;

	if (!(vip->flags & VIP_IN_FLUX))
		return prior_of(pool, word);
	prior = bpf_map_lookup_elem(&pools, &index);
	return prior ? prior_of(prior, slot_word(prior, hash)) : OWNER_NONE;
}

/*
 * The same while the VIP's affinity changes: hash is the one that flows had
 * under the prior affinity. Who is remembered by it stays, and is told by facts.
 */
step u32 prior_by_affinity(const struct pool *pool, const struct vip_entry *vip, u64 hash,
			   u32 *facts)
{
	u32 known = recall_flow(hash, *facts);

	if (!known)
		return prior_backend(pool, vip, OWNER_NONE, hash);
	*facts = (*facts & ~FACT_OPENER) | FACT_TRACKS | FACT_OPENERS;
	return known;
}

/* Whether a flow of the VIP and slot is to be looked up in the flow table. */
step bool asks_flow_table(const struct vip_entry *vip, u32 word)
{
	if (!(word & SLOT_IN_FLUX) && !(vip->flags & (VIP_IN_FLUX | VIP_TRACKS)))
		return false;
	return vip->flags & (VIP_OPENERS | VIP_TRACKS);
}

/*
 * The backend that a QUIC packet names itself, if it is one that keeps flows, else
 * 0. Only now is it known whether the packet is an opener.
 */
step u32 named_by_packet(struct xdp_md *ctx, const struct vip_entry *vip, struct packet *pkt)
{
	u32 prior_pool = vip->flags & VIP_IN_FLUX ? vip->prior_pool : vip->pool, backend;
	u64 found;

	if (pkt->quoted || pkt->fragment == LATER_FRAGMENT)
		return 0;
	found = quic_peek(ctx, pkt->l4, vip->pool, prior_pool);
	pkt->opener = found & QUIC_OPENER;
	backend = found;
	return ability(backend) & KEEPS_FLOWS ? backend : 0;
}

/* The index of the record of the backend that the packet's flow goes to, or of nobody. */
step u32 choose_backend(struct xdp_md *ctx, const struct pool *pool, const struct vip_entry *vip,
			struct packet *pkt)
{
	u64 flow = flow_hash(pkt->addresses, pkt->ports, pkt->protocol);
	u64 hash = vip->flags & VIP_AFFINE ? hash_by(ctx, pkt, vip, AFFINITY_NOW, flow) : flow;
	u32 word = slot_word(pool, hash), owner = backend_index(pool, word & SLOT_OWNER);
	u32 facts, prior, named = 0;

	pkt->hash = hash;
	if (vip->flags & VIP_QUIC)
		named = named_by_packet(ctx, vip, pkt);
	if (!named && !asks_flow_table(vip, word))
		return owner;
	facts = flow_facts(vip, pkt);
	if (named) {
		/* Where its owner is, a settled flow leaves no trace. */
		if (named != owner || asks_flow_table(vip, word))
			note_flow(hash, named, facts);
		return named;
	}
	if (vip->flags & VIP_CHANGES_AFFINITY)
		prior = prior_by_affinity(pool, vip, hash_by(ctx, pkt, vip, AFFINITY_PRIOR, flow),
					  &facts);
	else
		prior = prior_backend(pool, vip, word, hash);
	return route_flow(hash, owner, prior, facts);
}
