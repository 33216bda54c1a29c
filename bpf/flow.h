/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow: where packets go while a slot is in flux, by what the flow table
 * remembers. pkg/flux/route.go is its twin in Go and says why.
 *
 * The table is a bucket of four entries for each hash, one cache line, and what has
 * no room there is next door. It is shared by all CPUs without locks:
 * - a key is sealed: the bits of the state that name backend and VIP are mixed into
 *   it, so that key and state of different writers do not fit together;
 * - who writes an entry first claims it, by exchanging its key for FLOW_CLAIMED,
 *   then writes the state, then publishes by writing the new sealed key;
 * - who reads one reads key and state once each: if the seal opens to the flow's key,
 *   the state names the backend and the VIP that were written with it;
 * - who changes time or flags exchanges the state for the one it read; another
 *   backend takes claiming the entry anew.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "room.h"

const volatile u32 flow_mask; /* number of buckets, a power of two, less one */

#define FLOW_REFRESH_AGE 4 /* ticks; so that few packets write */
#define FLOW_CLAIM_TRIES 4

/* The order in which entries give way to a new one; equals by age, oldest first. */
enum flow_rank {
	RANK_EMPTY,
	RANK_EXPIRED,
	RANK_CLOSING,
	RANK_PRIOR,
	RANK_EMBRYONIC,
	RANK_CONNECTION,
	RANK_CLAIMED, /* somebody else's */
};

#define ORDER_RANK_SHIFT 32

/* What route_flow must know of packet and VIP, in one word. */
enum flow_fact {
	FACT_OPENER = 1,
	FACT_CLOSER = 2,
	FACT_TRACKS = 4,
	FACT_OPENERS = 8,
	FACT_PEEK = 16,    /* no packet that tells its flow: an ICMP error, an early fragment */
	FACT_HALFWAY = 32, /* openers come again while a connection is made: QUIC */
	FACT_VIP_SHIFT = 16,
};

step u32 flow_facts(const struct vip_entry *vip, const struct packet *pkt)
{
	bool peek = pkt->quoted || pkt->fragment == LATER_FRAGMENT;

	return (u32)vip->vip << FACT_VIP_SHIFT | (pkt->opener ? FACT_OPENER : 0) |
	       (closes(pkt) ? FACT_CLOSER : 0) | (peek ? FACT_PEEK : 0) |
	       (vip->flags & VIP_TRACKS ? FACT_TRACKS : 0) |
	       (vip->flags & VIP_OPENERS ? FACT_OPENERS : 0) |
	       (vip->flags & VIP_QUIC ? FACT_HALFWAY : 0);
}

step u64 flow_state(u32 now, u32 backend, u32 facts, u64 flags)
{
	return (now & FLOW_TICK_MASK) | (u64)backend << FLOW_BACKEND_SHIFT |
	       (u64)(facts >> FACT_VIP_SHIFT) << FLOW_VIP_SHIFT | flags << FLOW_FLAGS_SHIFT;
}

step u32 flow_backend(u64 state)
{
	return state >> FLOW_BACKEND_SHIFT & FLOW_BACKEND_MASK;
}

step u64 flow_flags(u64 state)
{
	return state >> FLOW_FLAGS_SHIFT;
}

step u32 flow_age(u32 now, u64 state)
{
	return (now - (u32)state) & FLOW_TICK_MASK;
}

/* A hash and its key have the same bucket. */
step u32 flow_bucket_of(u64 hash)
{
	return hash >> 2 & flow_mask;
}

/* The bucket that a hash has room in when its own is full; both are a pair of lines. */
step u32 next_door(u32 at)
{
	return (at ^ 1) & flow_mask;
}

step void count_flow(u32 event)
{
	u64 *count = bpf_map_lookup_elem(&flow_events, &event);

	if (count)
		++*count;
}

/* What a backend may be given; nobody, nothing. */
step u8 ability(u32 index)
{
	struct backend *backend = bpf_map_lookup_elem(&backends, &index);

	return backend ? backend->able : 0;
}

/* Mixes what must not be torn from a key into it; done twice, takes it out again. */
step u64 seal_flow(u64 key, u64 state)
{
	return key ^ (state & FLOW_SEAL);
}

step struct flow *find_flow(struct flow_bucket *bucket, u64 key, u64 *state)
{
	for (int i = 0; i < 4; i++) {
		volatile struct flow *f = &bucket->flow[i];
		u64 sealed = f->key;

		*state = f->state;
		if (seal_flow(sealed, *state) == key)
			return &bucket->flow[i];
	}
	return NULL;
}

/* The entry of a flow, at home or next door; NULL if there is none. */
step struct flow *find_known(u64 key, u64 *state)
{
	u32 at = flow_bucket_of(key);
	struct flow_bucket *bucket = bpf_map_lookup_elem(&flows, &at);
	struct flow *flow = bucket ? find_flow(bucket, key, state) : NULL;

	if (flow)
		return flow;
	at = next_door(at);
	bucket = bpf_map_lookup_elem(&flows, &at);
	return bucket ? find_flow(bucket, key, state) : NULL;
}

/* Writes an entry whose key is still what it was, as read; false if it is not. */
step bool write_flow(struct flow *f, u64 was, u64 key, u64 state)
{
	if (__sync_val_compare_and_swap(&f->key, was, FLOW_CLAIMED) != was)
		return false;
	*(volatile u64 *)&f->state = state;
	__sync_val_compare_and_swap(&f->key, FLOW_CLAIMED, seal_flow(key, state));
	return true;
}

/* The rank of an entry, with its age below it: the lowest order gives way first. */
side_step u64 order_flow(u64 key, u64 state, u32 now, u32 idle)
{
	u64 flags = flow_flags(state), rank = RANK_CONNECTION;
	u32 age = flow_age(now, state);

	/* A CPU that wrote it may have read the clock later than this one. */
	if (age > FLOW_TICK_MASK / 2)
		age = 0;
	if (!key)
		rank = RANK_EMPTY;
	else if (key == FLOW_CLAIMED)
		rank = RANK_CLAIMED;
	else if (age >= idle)
		rank = RANK_EXPIRED;
	else if (flags & FLOW_CLOSING)
		rank = RANK_CLOSING;
	else if (!(flags & FLOW_ESSENTIAL))
		rank = RANK_PRIOR;
	else if (!(flags & FLOW_CONFIRMED))
		rank = RANK_EMBRYONIC;
	return rank << ORDER_RANK_SHIFT | (FLOW_TICK_MASK - age);
}

/* The highest rank that gives way to an entry with these flags. */
step enum flow_rank may_replace(u64 flags)
{
	if (!(flags & FLOW_ESSENTIAL))
		return RANK_PRIOR;
	return flags & FLOW_CONFIRMED ? RANK_CONNECTION : RANK_EMBRYONIC;
}

/* The entry of two buckets that gives way first. */
struct victim {
	u64 key;
	u32 rank;
	u32 place; /* of eight */
};

step struct flow *flow_at(struct flow_bucket *home, struct flow_bucket *next, u32 place)
{
	return &(place & 4 ? next : home)->flow[place & 3];
}

step struct victim find_victim(struct flow_bucket *home, struct flow_bucket *next)
{
	struct victim victim = {};
	u64 lowest = ~0ULL;

	/* Unrolled, it takes more of the stack than the deepest path has left. */
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 8; i++) {
		volatile struct flow *f = flow_at(home, next, i);
		u64 key = f->key, order = order_flow(key, f->state, ctl.now, ctl.idle);

		if (order < lowest) {
			lowest = order;
			victim.key = key;
			victim.place = i;
		}
		if (!key)
			break;
	}
	victim.rank = lowest >> ORDER_RANK_SHIFT;
	return victim;
}

step void count_eviction(u32 rank)
{
	if (rank == RANK_CLOSING)
		count_flow(FLOW_EVICTED_CLOSING);
	else if (rank == RANK_PRIOR)
		count_flow(FLOW_EVICTED_PRIOR);
	else if (rank == RANK_EMBRYONIC)
		count_flow(FLOW_EVICTED_EMBRYONIC);
	else if (rank == RANK_CONNECTION)
		count_flow(FLOW_EVICTED_CONNECTION);
}

/* What became of an attempt to remember a flow. */
enum remembered {
	REMEMBERED,
	TAKEN, /* somebody else took the place */
	NO_ROOM,
};

/*
 * Tries to remember a flow. Nothing gives way that is worth more: an opener, which
 * anybody can send, never takes the place of a connection. Returns an enum remembered.
 */
side_step u32 try_to_remember(u64 key, u64 state)
{
	struct flow_bucket *home, *next;
	struct victim v;
	/* One for both keys: the deepest path has little stack left. */
	u32 at = flow_bucket_of(key);

	home = bpf_map_lookup_elem(&flows, &at);
	at = next_door(at);
	next = bpf_map_lookup_elem(&flows, &at);
	if (!home || !next)
		return NO_ROOM;
	v = find_victim(home, next);
	if (v.rank > may_replace(flow_flags(state)))
		return NO_ROOM;
	if (!write_flow(flow_at(home, next, v.place), v.key, key, state))
		return TAKEN;
	count_eviction(v.rank);
	return REMEMBERED;
}

/* Remembers a flow, if there is room; false if there is none. */
step bool remember_flow(u64 key, u64 state)
{
	u32 outcome = TAKEN;

	for (int i = 0; i < FLOW_CLAIM_TRIES && outcome == TAKEN; i++)
		outcome = try_to_remember(key, state);
	count_flow(outcome == REMEMBERED ? FLOW_REMEMBERED : FLOW_UNREMEMBERED);
	return outcome == REMEMBERED;
}

/* What an entry becomes with another packet of its flow. */
step u64 seen_again(u64 state, u32 facts, u32 now)
{
	u64 flags = flow_flags(state);

	if (!(facts & FACT_OPENER))
		flags |= FLOW_CONFIRMED;
	if (facts & FACT_CLOSER)
		flags |= FLOW_CLOSING;
	if (facts & FACT_OPENER)
		flags &= ~(u64)FLOW_CLOSING;
	if (flow_age(now, state) < FLOW_REFRESH_AGE)
		now = state & FLOW_TICK_MASK;
	return flow_state(now, flow_backend(state), state >> FLOW_VIP_SHIFT << FACT_VIP_SHIFT,
			  flags);
}

/*
 * Flags of an entry for a flow that goes to its owner. It is confirmed by another
 * packet only, for anybody can send one, opener or not.
 */
step u64 owner_flags(u32 facts)
{
	return FLOW_ESSENTIAL | (facts & FACT_CLOSER ? FLOW_CLOSING : 0);
}

/* Flags of an entry for a flow that goes to the prior owner. */
step u64 prior_flags(u32 facts)
{
	return FLOW_CONFIRMED | (facts & FACT_TRACKS ? FLOW_ESSENTIAL : 0) |
	       (facts & FACT_CLOSER ? FLOW_CLOSING : 0);
}

/* Whether an unknown flow began before the flux, and may stay where it was. */
step bool belongs_to_prior(u32 facts, u32 prior)
{
	return !(facts & FACT_OPENER) && facts & FACT_OPENERS && ability(prior) & KEEPS_FLOWS;
}

/* Whether the flow of an entry has no place of its backend's, or may have none any more. */
step bool lost_place(u64 state, u32 now)
{
	u64 flags = flow_flags(state);
	u32 age = flow_age(now, state);

	/* A CPU that wrote it may have read the clock later than this one. */
	if (age > FLOW_TICK_MASK / 2)
		return false;
	if (flags & FLOW_CLOSING)
		return age > ROOM_CLOSING - ROOM_MARGIN;
	return !(flags & FLOW_CONFIRMED) && age > ROOM_HALF_OPEN - ROOM_MARGIN;
}

/* Whether the backend of an entry goes on with its flow. */
step bool goes_on(u32 facts, u8 able, bool placeless)
{
	if (!(able & KEEPS_FLOWS))
		return false;
	if (placeless && facts & FACT_OPENER)
		return false;
	return !(facts & FACT_OPENER) || able & TAKES_FLOWS || facts & FACT_HALFWAY;
}

step void see_again(struct flow *flow, u64 state, u32 facts, u32 now)
{
	u64 next = seen_again(state, facts, now);

	if (next != state)
		__sync_val_compare_and_swap(&flow->state, state, next);
}

/* Whether the packet is the first of a flow, as far as its protocol tells. */
step bool begins_flow(u32 facts)
{
	return facts & FACT_OPENER || !(facts & FACT_OPENERS);
}

/* Has a flow that is not known take a place where it goes, if places are counted there. */
step bool may_enter(u32 backend, u32 facts)
{
	return !(ability(backend) & LIMITED) || take_place(backend, !begins_flow(facts));
}

/*
 * Remembers a flow that is not known, where it goes. Returns that, or OWNER_FULL: one that
 * cannot be remembered cannot be counted.
 */
step u32 enter_flow(u64 key, u32 backend, u32 facts, u64 state)
{
	if (!may_enter(backend, facts))
		return OWNER_FULL;
	if (!remember_flow(key, state) && ability(backend) & LIMITED && begins_flow(facts)) {
		give_place(backend);
		return OWNER_FULL;
	}
	return backend;
}

/* Whether a packet of a known flow leaves all as it is: nearly all of them do. */
step bool changes_nothing(u64 state, u32 facts, u32 now, u8 able)
{
	return !(facts & (FACT_OPENER | FACT_CLOSER)) && flow_flags(state) & FLOW_CONFIRMED &&
	       flow_age(now, state) < FLOW_REFRESH_AGE &&
	       (able & (KEEPS_FLOWS | LIMITED)) == KEEPS_FLOWS;
}

/*
 * The index of the record of the flow's backend: that of its entry if it has one,
 * else its owner or its prior, which is remembered.
 */
side_step u32 route_flow(u64 hash, u32 owner, u32 prior, u32 facts)
{
	u64 key = hash | FLOW_KEY;
	u64 state, next;
	struct flow *flow;
	bool placeless;
	u32 backend;
	u8 able;

	flow = find_known(key, &state);
	if (!flow && belongs_to_prior(facts, prior)) {
		if (facts & FACT_PEEK)
			return prior;
		next = flow_state(ctl.now, prior, facts, prior_flags(facts));
		return enter_flow(key, prior, facts, next);
	}
	if (!flow) {
		if (owner < OWNER_FIRST || facts & FACT_PEEK)
			return owner;
		next = flow_state(ctl.now, owner, facts, owner_flags(facts));
		return enter_flow(key, owner, facts, next);
	}
	backend = flow_backend(state);
	able = ability(backend);
	if (changes_nothing(state, facts, ctl.now, able))
		return backend;
	placeless = able & LIMITED && lost_place(state, ctl.now);
	if (goes_on(facts, able, placeless)) {
		if (facts & FACT_PEEK)
			return backend;
		if (placeless)
			take_place(backend, true);
		see_again(flow, state, facts, ctl.now);
		return backend;
	}
	if (facts & FACT_PEEK || owner < OWNER_FIRST)
		return owner;
	/* Its backend is gone, or has let go of it: it begins again. */
	if (!may_enter(owner, facts))
		return OWNER_FULL;
	next = flow_state(ctl.now, owner, facts, owner_flags(facts));
	write_flow(flow, seal_flow(key, state), key, next);
	return owner;
}

/*
 * Gives the entry of a flow whose hash has changed its new one, in its place: both
 * have the lower half that chooses the bucket. Returns 0.
 */
side_step int rename_flow(u64 from, u64 to)
{
	u64 was = from | FLOW_KEY, key = to | FLOW_KEY, state;
	struct flow *flow;

	if (find_known(key, &state))
		return 0;
	flow = find_known(was, &state);
	if (flow)
		write_flow(flow, seal_flow(was, state), key, state);
	return 0;
}

/*
 * Remembers that a flow is alive on a backend that its own packets name. Nothing
 * depends on the entry but counts of flows and what waits for them. Returns 0.
 */
side_step int note_flow(u64 hash, u32 backend, u32 facts)
{
	u64 key = hash | FLOW_KEY, state = 0, next; /* the verifier wants one put by */
	struct flow *flow;

	if (!(facts & (FACT_OPENERS | FACT_TRACKS)))
		return 0;
	flow = find_known(key, &state);
	if (flow && flow_backend(state) == backend) {
		see_again(flow, state, facts, ctl.now);
		return 0;
	}
	next = flow_state(ctl.now, backend, facts, FLOW_CONFIRMED);
	if (ability(backend) & LIMITED)
		take_place(backend, true);
	if (flow)
		write_flow(flow, seal_flow(key, state), key, next);
	else
		remember_flow(key, next);
	return 0;
}
