/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Slot: which backend a flow belongs to. The pool's Maglev table answers, and
 * no state of the flow is read or written.
 */
#pragma once

#include "maps.h"

/* The slot of a hash within a table, by multiplication instead of modulo. */
step u32 slot_of(u64 hash, u32 slots)
{
	return ((hash >> 32) * slots) >> 32;
}

/* The owner of the flow's slot; OWNER_NONE if the maps contradict each other. */
step u32 slot_owner(const struct pool *pool, u64 hash)
{
	u32 at = pool->slot_base + slot_of(hash, pool->slots);
	u32 line_index = at / 16;
	struct slot_line *line = bpf_map_lookup_elem(&slots, &line_index);

	return line ? line->slot[at % 16] & SLOT_OWNER : OWNER_NONE;
}
