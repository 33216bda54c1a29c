/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Home: where most connections have their port. The hash of a flow names one of the ports,
 * which shares a quad, four translations side by side in memory, with three more. A
 * connection that has one of the four is found there, and nowhere else; one that found no
 * room is among sessions. So a client's packet reads one place of memory, as a reply does.
 */
#pragma once

#include "translation.h"

#define NAT_HOME 4 /* ports */

/* The first translation of the address that a flow comes from, NAT_NONE if there is none. */
step u32 nat_base(u64 hash, bool ipv4, bool udp)
{
	u32 number = hash >> 32;

	if (!(ipv4 ? nat_sources_ipv4 : nat_sources_ipv6))
		return NAT_NONE;
	if (ipv4)
		number &= nat_sources_ipv4 - 1;
	else
		number = nat_sources_ipv4 + (number & (nat_sources_ipv6 - 1));
	return number << NAT_ADDRESS_SHIFT | (udp ? NAT_UDP_BIT : 0);
}

/* One of an address's translations, by 32 bits that say how far from the first to the last. */
step u32 spread_port(u32 base, u32 bits)
{
	return base + nat_first_port + ((u64)bits * nat_port_count >> 32);
}

/*
 * The translation that a client's flow would have, NAT_NONE if there is no address. A
 * backend of the other IP version sees another address: such a connection is not at home.
 */
step u32 home_of(const struct tuple *client, u64 hash, u32 protocol)
{
	u32 base = nat_base(hash, is_mapped(&client->destination), protocol == IPPROTO_UDP);

	return base == NAT_NONE ? NAT_NONE : spread_port(base, hash);
}

/* Whether a translation is one of those where packets of the flow would look for it. */
step bool is_at_home(u32 home, u32 index)
{
	return home != NAT_NONE && (home ^ index) < NAT_HOME;
}

step bool is_same_address(const struct address *a, const struct address *b)
{
	return a->word[1] == b->word[1] && a->word[0] == b->word[0];
}

/* Whether a translation is that of a client's packets with this tuple. */
step bool is_of(const struct translation *t, const struct tuple *client)
{
	return t->ports == client->ports && is_same_address(&t->client, &client->source) &&
	       is_same_address(&t->address, &client->destination) &&
	       t->state >> FLOW_FLAGS_SHIFT & NAT_USED;
}

/* The index of the translation of a client's flow, other than one, if it is at home; NAT_NONE. */
step u32 find_at_home(const struct tuple *client, u32 home, u32 other)
{
	struct translation *t;
	u32 index;

	if (home == NAT_NONE)
		return NAT_NONE;
	for (u32 i = 0; i < NAT_HOME; i++) {
		index = home ^ i;
		t = translation_at(index);
		if (t && is_of(t, client) && index != other)
			return index;
	}
	return NAT_NONE;
}
