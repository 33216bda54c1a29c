/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * NAT ports: a free one for a connection that begins. Where none is found that is free,
 * one is taken from a connection that has expired; that has ended; that has not begun.
 */
#pragma once

#include "session.h"
#include "translation.h"

#define NAT_PORT_TRIES 16 /* words of 64 ports */
#define NAT_PORT_STRIDE 7 /* words from one try to the next */

/* Claims a translation whose state is still what it was. */
step bool claim_translation(struct translation *t, u64 was, u32 now)
{
	u64 next = nat_state(now, 0, nat_generation(was) + 1, NAT_CLAIMED);

	return __sync_val_compare_and_swap(&t->state, was, next) == was;
}

step u64 *nat_ports_word(u32 index)
{
	u32 at = index >> 9;
	struct nat_ports_line *line = bpf_map_lookup_elem(&nat_ports, &at);

	return line ? &line->word[index >> 6 & 7] : NULL;
}

/* The place of a bit that is set, the first one from a place on. */
step u32 some_bit(u64 word, u32 from)
{
	word = word >> from | word << ((64 - from) & 63);
	return (__builtin_ctzll(word) + from) & 63;
}

/* Claims a translation that looked free. Returns its index or NAT_NONE. */
step u32 take_port_at(u64 *word, u32 index)
{
	u64 bit = 1ULL << (index & 63), was;
	struct translation *t;

	if (__sync_fetch_and_or(word, bit) & bit)
		return NAT_NONE;
	t = translation_at(index);
	if (!t)
		return NAT_NONE;
	was = *(volatile u64 *)&t->state;
	if (was >> FLOW_FLAGS_SHIFT || !claim_translation(t, was, nat_now()))
		return NAT_NONE;
	return index;
}

/*
 * At which of the ports at home one is looked for by a connection whose client had another:
 * what comes late of that is not to be taken for its own.
 */
step u32 turn_of(u32 home, u32 former)
{
	return is_at_home(home, former) ? (home ^ former) + 1 : 0;
}

/* Claims a free one of the translations at home. Returns its index or NAT_NONE. */
side_step u32 take_port_at_home(u32 home, u32 turn)
{
	u64 *word = nat_ports_word(home);
	u32 index = NAT_NONE, at;

	if (!word)
		return NAT_NONE;
	for (u32 i = 0; i < NAT_HOME && index == NAT_NONE; i++) {
		at = home ^ ((turn + i) & (NAT_HOME - 1));
		if (!(*(volatile u64 *)word >> (at & 63) & 1))
			index = take_port_at(word, at);
	}
	return index;
}

/* Claims a free one of the 64 translations from an index on. Returns its index or NAT_NONE. */
side_step u32 take_free_port(u32 index, u32 from)
{
	u64 *word = nat_ports_word(index);
	u64 taken;

	if (!word)
		return NAT_NONE;
	taken = *(volatile u64 *)word;
	if (taken == ~0ULL)
		return NAT_NONE;
	return take_port_at(word, (index & ~63u) | some_bit(~taken, from & 63));
}

/* The hash of the flow of a client's packets. */
step u64 session_hash(const struct tuple *client, u32 protocol)
{
	u64 addresses;

	if (is_mapped(&client->source))
		addresses =
			fold_ipv4(unmap_ipv4(&client->source), unmap_ipv4(&client->destination));
	else
		addresses = fold_ipv6((const void *)&client->source,
				      (const void *)&client->destination);
	return flow_hash(addresses, client->ports, protocol);
}

/* Whether the port of a connection may be given to another. */
step bool may_be_taken(const struct translation *t, u64 state, u32 now)
{
	u64 flags = state >> FLOW_FLAGS_SHIFT;
	u32 age = nat_age(now, state), idle = nat_idle(flags, t->vip);

	if (!(flags & NAT_USED))
		return false;
	return age > idle || (idle == NAT_TRANSITORY && age > NAT_UNTOUCHED);
}

/* Claims a translation whose connection is over, or nearly. Returns its index or NAT_NONE. */
side_step u32 take_used_port(u32 index)
{
	struct translation *t = translation_at(index);
	u32 now = nat_now();
	struct tuple client;
	u64 was;

	if (!t)
		return NAT_NONE;
	was = *(volatile u64 *)&t->state;
	if (!may_be_taken(t, was, now))
		return NAT_NONE;
	client.source = t->client;
	client.destination = t->address;
	client.ports = t->ports;
	if (!claim_translation(t, was, now))
		return NAT_NONE;
	if (nat_age(now, was) <= nat_idle(was >> FLOW_FLAGS_SHIFT, t->vip))
		count_flow(NAT_EVICTED);
	drop_session(&client, session_hash(&client, protocol_of(index)), index);
	return index;
}

/* The i-th port, or 64 from there on, in which a flow of a hash looks for room. */
step u32 candidate(u32 base, u32 hash, u32 i)
{
	return spread_port(base, hash + i * (NAT_PORT_STRIDE << 26));
}

/*
 * Claims a translation of an address and protocol, at home if that is of these. Returns its
 * index or NAT_NONE.
 */
side_step u32 take_port(u32 base, u64 hash, u32 home, u32 turn)
{
	u32 index = NAT_NONE, random = bpf_get_prandom_u32();

	if (spread_port(base, hash) == home)
		index = take_port_at_home(home, turn);
	for (u32 i = 0; i < NAT_PORT_TRIES && index == NAT_NONE; i++)
		index = take_free_port(candidate(base, hash, i), random);
	for (u32 i = 0; i < NAT_PORT_TRIES && index == NAT_NONE; i++)
		index = take_used_port(candidate(base, random, i));
	return index;
}

/*
 * Gives back a translation whose state is still what it was: nobody has seen a packet of
 * it, or taken its port, meanwhile. Returns whether it did.
 */
side_step u32 free_translation(u32 index, u64 was)
{
	struct translation *t = translation_at(index);
	u64 *word = nat_ports_word(index);

	if (!t || !word)
		return false;
	if (__sync_val_compare_and_swap(&t->state, was, nat_state(0, 0, nat_generation(was), 0)) !=
	    was)
		return false;
	/* One that is none of ours any more is not to be had again. */
	if ((index & 0xffff) - nat_first_port < nat_port_count)
		__sync_fetch_and_and(word, ~(1ULL << (index & 63)));
	return true;
}
