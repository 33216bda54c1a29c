/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the fragment table says of packets of VIPs that translate. For backend and VIP
 * stands there
 * - of a fullnat VIP, in both directions: the index of the translation and, above its
 *   28 bits, 8 of the generation;
 * - of a nat VIP's backend: port and protocol of the first fragment;
 * - to a nat VIP: backend and VIP, as in the other modes.
 */
#pragma once

#include "nat_path.h"

#define NAT_INDEX_MASK 0xfffffff
#define NAT_INDEX_BITS 28
#define FRAGMENT_VALUE_MASK 0xfffffffffULL

/* Remembers a value of 36 bits for the fragments of a packet. */
step void remember_value(const struct packet *pkt, u64 value, u8 mode)
{
	remember_fragment(fragment_key(pkt),
			  value << FLOW_BACKEND_SHIFT | (u64)mode << FLOW_FLAGS_SHIFT);
}

step void remember_translation(const struct packet *pkt, u32 index)
{
	struct translation *t = translation_at(index);

	if (t)
		remember_value(pkt, (nat_generation(t->state) & 0xff) << NAT_INDEX_BITS | index,
			       MODE_FULLNAT);
}

/* The translation that a fragment's packet has, with its state; NULL if it has none now. */
step struct translation *recall_translation(struct course *c, u64 value, u64 *state)
{
	struct translation *t;

	c->index = value & NAT_INDEX_MASK;
	t = translation_at(c->index);
	if (!t)
		return NULL;
	*state = *(volatile u64 *)&t->state;
	if (!(*state >> FLOW_FLAGS_SHIFT & NAT_USED) ||
	    (nat_generation(*state) & 0xff) != value >> NAT_INDEX_BITS)
		return NULL;
	return t;
}
