/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Slot: which backend a flow belongs to. A settled slot answers by itself, and no
 * state of the flow is read or written. For a slot in flux the flow table knows
 * more (flow.h).
 */
#pragma once

#include "flow.h"
#include "maps.h"

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
step u32 prior_backend(const struct pool *pool, u32 flags, u32 prior_pool, u32 word, u64 hash)
{
	struct pool *prior;

	if (!(flags & VIP_IN_FLUX))
		return prior_of(pool, word);
	prior = bpf_map_lookup_elem(&pools, &prior_pool);
	return prior ? prior_of(prior, slot_word(prior, hash)) : OWNER_NONE;
}

/* Whether a flow of the VIP and slot is to be looked up in the flow table. */
step bool asks_flow_table(u32 flags, u32 word)
{
	if (!(word & SLOT_IN_FLUX) && !(flags & (VIP_IN_FLUX | VIP_TRACKS)))
		return false;
	return flags & (VIP_OPENERS | VIP_TRACKS);
}
