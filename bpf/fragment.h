/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragment: later fragments tell no ports; they follow the first one of their
 * packet. The fragment table remembers where that went, in the form and by the rules
 * of the flow table (flow.h) but apart from it: no flood of fragments takes anything
 * from a flow.
 */
#pragma once

#include "flow.h"
#include "hash.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"

const volatile u32 fragment_mask; /* number of buckets, a power of two, less one */

/* The table's clock: 2^27 ns are 134 ms. The kernel's own, for it must not stand still. */
#define FRAGMENT_TICK_SHIFT 27

/* As long as Linux waits for a packet's fragments (ipfrag_time): 30 s. */
#define FRAGMENT_IDLE (30ULL * 1000000000 >> FRAGMENT_TICK_SHIFT)

step u32 fragment_now(void)
{
	return bpf_ktime_get_coarse_ns() >> FRAGMENT_TICK_SHIFT & FLOW_TICK_MASK;
}

/*
 * What the fragments of a packet have in common (RFC 791, RFC 8200 section 4.5):
 * with IPv6 the protocol is not part of it.
 */
step u64 fragment_key(const struct packet *pkt)
{
	u8 protocol = pkt->ipv6 ? IPPROTO_FRAGMENT : pkt->protocol;

	return flow_hash(pkt->addresses, pkt->fragment_id, protocol) | FLOW_KEY;
}

/* Whether a later fragment may be of a flow: with IPv6, what comes first may hide that. */
step bool may_be_flow(const struct packet *pkt)
{
	return pkt->protocol == IPPROTO_TCP || pkt->protocol == IPPROTO_UDP ||
	       (pkt->ipv6 && is_extension_header(pkt->protocol));
}

/* The entry that gives way: an empty one, else the oldest. */
step u32 oldest_fragment(struct flow_bucket *bucket, u32 now, u64 *was)
{
	u32 oldest = 0, place = 0;

	for (int i = 0; i < 4; i++) {
		volatile struct flow *f = &bucket->flow[i];
		u64 key = f->key;
		u32 age = key ? flow_age(now, f->state) : FLOW_TICK_MASK;

		if (key != FLOW_CLAIMED && age >= oldest) {
			oldest = age;
			place = i;
			*was = key;
		}
	}
	if (oldest < FRAGMENT_IDLE)
		count_flow(FRAGMENT_EVICTED);
	return place;
}

/* Remembers where the fragments of a packet go; state without the time. Returns 0. */
side_step int remember_fragment(u64 key, u64 state)
{
	u32 at = key >> 2 & fragment_mask, now = fragment_now();
	struct flow_bucket *bucket = bpf_map_lookup_elem(&fragments, &at);
	struct flow *f;
	u64 was = 0, known;
	u32 place;

	if (!bucket)
		return 0;
	state |= now;
	f = find_flow(bucket, key, &known);
	if (f) {
		write_flow(f, seal_flow(key, known), key, state);
		return 0;
	}
	place = oldest_fragment(bucket, now, &was);
	if (write_flow(&bucket->flow[place & 3], was, key, state))
		count_flow(FRAGMENT_REMEMBERED);
	return 0;
}

/* What is remembered of a packet's fragments, 0 if nothing or no more. */
side_step u64 recall_fragment(u64 key)
{
	u32 at = key >> 2 & fragment_mask;
	struct flow_bucket *bucket = bpf_map_lookup_elem(&fragments, &at);
	u64 state;

	if (!bucket || !find_flow(bucket, key, &state))
		return 0;
	return flow_age(fragment_now(), state) < FRAGMENT_IDLE ? state : 0;
}

/*
 * Sends a later fragment after those that came before it; PASS_NOT_IP if none is known.
 * Outside, all fragments of a packet look alike: as no flow, but as each other.
 */
step enum reason follow_fragments(struct packet *pkt, struct route *route)
{
	u64 state;

	pkt->hash = fragment_key(pkt);
	state = recall_fragment(pkt->hash);
	if (!state)
		return PASS_NOT_IP;
	if (flow_flags(state) & FRAGMENT_PASSES)
		return PASS_NOT_VIP;
	route->backend = flow_backend(state);
	route->vip = state >> FLOW_VIP_SHIFT;
	route->mode = flow_flags(state) & FRAGMENT_MODE;
	return TX_FORWARDED;
}

/* Leaves the fragments that come after a first one to the kernel, as that was. */
step void pass_together(const struct packet *pkt)
{
	remember_fragment(fragment_key(pkt), flow_state(0, OWNER_NONE, 0, FRAGMENT_PASSES));
}

/*
 * Keeps the fragments of a packet together: a first one follows those that came
 * before it, where its VIP lets them; all others follow this one.
 */
step void keep_together(struct packet *pkt, struct route *route, bool early)
{
	u64 key = fragment_key(pkt), state = 0, flags = route->mode;

	pkt->hash = key;
	if (pkt->fragment == LATER_FRAGMENT)
		flags |= FRAGMENT_EARLY;
	else if (early)
		state = recall_fragment(key);
	if (flow_flags(state) & FRAGMENT_EARLY) {
		/* So that another copy of the first fragment follows as well. */
		flags |= FRAGMENT_EARLY;
		route->backend = flow_backend(state);
	}
	if (route->backend >= OWNER_FIRST)
		remember_fragment(key, flow_state(0, route->backend,
						  (u32)route->vip << FACT_VIP_SHIFT, flags));
}
