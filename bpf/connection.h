/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connection: one of a VIP that translates source addresses, from its first packet to
 * its last (RFC 5382, RFC 4787). Both its directions are seen, and every packet of
 * it finds the translation that it began with.
 */
#pragma once

#include "nat_port.h"

/* What open_connection must know of packet and VIP, in one word. */
enum nat_fact {
	NAT_FACT_IPV4 = 1, /* the backend's address is IPv4 */
	NAT_FACT_TCP = 2,
	NAT_FACT_TAG = 4,        /* the frame has a VLAN tag */
	NAT_FACT_SPLICED = 8,    /* it began with a SYN cookie */
	NAT_FACT_TURN_SHIFT = 4, /* two bits: at which port at home to begin, see turn_of() */
	NAT_FACT_TURN = 3,
	NAT_FACT_VIP_SHIFT = 16,
};

/*
 * Whether a packet tells where answers go to, which is where it came from: they have one
 * tag at most, of the kind that is put on.
 */
step bool tells_way_back(struct xdp_md *ctx, u32 l3)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if (l3 == sizeof(*eth))
		return true;
	return l3 == sizeof(*eth) + sizeof(struct vlan_header) &&
	       (void *)(eth + 1) <= (void *)(long)ctx->data_end &&
	       eth->h_proto == bpf_htons(ETH_P_8021Q);
}

/* Notes where the frame came from; false if that is what was known. */
step bool note_hop(struct xdp_md *ctx, struct translation *t, bool tagged)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	u32 *known = (void *)t->mac, mac[3];
	__be16 vlan = 0;

	if ((void *)(eth + 1) + sizeof(struct vlan_header) > end)
		return false;
	if (tagged)
		vlan = ((struct vlan_header *)(eth + 1))->tci;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	__builtin_memcpy((void *)mac + ETH_ALEN, eth->h_dest, ETH_ALEN);
	if (known[0] == mac[0] && known[1] == mac[1] && known[2] == mac[2] && t->vlan == vlan &&
	    t->ifindex == ctx->ingress_ifindex)
		return false;
	/* A router has taken over from another; an answer under way may be lost. */
	known[0] = mac[0];
	known[1] = mac[1];
	known[2] = mac[2];
	t->vlan = vlan;
	t->ifindex = ctx->ingress_ifindex;
	return true;
}

/* What stands for a translation whose connection has become another CPU's, and ended. */
#define NAT_LOST (NAT_NONE - 1)

/* Ends a connection whose state is still what it was, so that its client may begin another. */
step void close_connection(const struct tuple *client, u64 hash, u32 index, u64 was)
{
	if (free_translation(index, was))
		drop_session(client, hash, index);
}

/* That of a translation which counts only if no other of its client comes before it. */
#define NAT_TENTATIVE ((u64)NAT_CLAIMED << FLOW_FLAGS_SHIFT)

/* Lets packets of a connection whose translation is written find it. */
step bool publish(struct translation *t, u64 state, const struct tuple *client, u64 hash, u32 index)
{
	/* An exchange: it is there before this CPU looks for what others have published. */
	__sync_lock_test_and_set(&t->state, state);
	return add_session(client, hash, index);
}

#define NAT_CONFIRM_TRIES 4

/* Has a tentative translation count; false if it has given way to another CPU's. */
step bool confirm(struct translation *t, u64 was)
{
	u64 generation = nat_generation(was), found;

	for (int i = 0; i < NAT_CONFIRM_TRIES; i++) {
		found = __sync_val_compare_and_swap(&t->state, was, was & ~NAT_TENTATIVE);
		if (found == was)
			return true;
		if (!(found & NAT_TENTATIVE) || nat_generation(found) != generation)
			return false;
		/* Another packet of the connection has come in between. */
		was = found;
	}
	return false;
}

/* The order in which translations of one client are looked for. */
step u32 search_order(u32 home, u32 index)
{
	return is_at_home(home, index) ? home ^ index : NAT_HOME + index;
}

/*
 * Ends another CPU's translation of the same connection if that does not count yet and comes
 * later; false if it is to be kept. What has become of it, the next look shows.
 */
step bool gives_way(const struct tuple *client, u64 hash, u32 home, u32 other, u32 index)
{
	struct translation *t = translation_at(other);
	u64 state;

	if (!t)
		return false;
	state = *(volatile u64 *)&t->state;
	if (!is_of(t, client))
		return true;
	if (!(state & NAT_TENTATIVE) || search_order(home, other) < search_order(home, index))
		return false;
	close_connection(client, hash, other, state);
	return true;
}

#define NAT_RIVALS 4

/*
 * Has the one translation of a connection that several CPUs have begun count: that which
 * already does, else the first in the order of search. Returns its index, or NAT_LOST if
 * that one has gone meanwhile.
 */
side_step u32 settle_connection(const struct tuple *client, u64 hash, u32 index, u64 state)
{
	u32 protocol = protocol_of(index), other = NAT_NONE;
	struct translation *t = translation_at(index);

	if (!client || !t)
		return NAT_LOST;
	for (int i = 0; i < NAT_RIVALS; i++) {
		other = find_session(client, hash, protocol, index);
		if (other == NAT_NONE)
			return confirm(t, state) ? index : NAT_LOST;
		if (!gives_way(client, hash, home_of(client, hash, protocol), other, index))
			break;
	}
	close_connection(client, hash, index, state);
	t = translation_at(other);
	return t && is_of(t, client) ? other : NAT_LOST;
}

/*
 * Begins a connection to a backend. Returns the index of its translation, or NAT_NONE
 * where no port is free. If another CPU has begun the same one, that one may count; if it
 * has ended since, NAT_LOST is returned.
 */
side_step u32 open_connection(struct xdp_md *ctx, const struct tuple *client, u64 hash, u32 backend,
			      u32 facts)
{
	u32 protocol = facts & NAT_FACT_TCP ? IPPROTO_TCP : IPPROTO_UDP, index, settled;
	u32 base = nat_base(hash, facts & NAT_FACT_IPV4, protocol == IPPROTO_UDP);
	struct translation *t;
	u64 state, flags = NAT_USED | NAT_CLAIMED;

	if (!client || base == NAT_NONE)
		return NAT_NONE;
	index = take_port(base, hash, home_of(client, hash, protocol),
			  facts >> NAT_FACT_TURN_SHIFT & NAT_FACT_TURN);
	t = translation_at(index);
	if (!t)
		return NAT_NONE;
	t->client = client->source;
	t->address = client->destination;
	t->ports = client->ports;
	t->vip = facts >> NAT_FACT_VIP_SHIFT;
	note_hop(ctx, t, facts & NAT_FACT_TAG);
	flags |= facts & NAT_FACT_SPLICED ? NAT_SPLICED : 0;
	/* One datagram may be all that there is. */
	if (protocol == IPPROTO_UDP)
		flags |= NAT_SPOKEN;
	state = nat_state(t->state, backend, nat_generation(t->state), flags);
	if (!publish(t, state, client, hash, index)) {
		free_translation(index, state);
		return NAT_NONE;
	}
	settled = settle_connection(client, hash, index, state);
	if (settled == index)
		count_flow(NAT_OPENED);
	return settled;
}

/* As ROOM_HALF_OPEN, ROOM_CLOSING and ROOM_MARGIN, in ticks of the translations' clock. */
#define NAT_ROOM_HALF_OPEN (10ULL * 1000000000 >> NAT_TICK_SHIFT)
#define NAT_ROOM_CLOSING (2ULL * 1000000000 >> NAT_TICK_SHIFT)
#define NAT_ROOM_MARGIN (1ULL * 1000000000 >> NAT_TICK_SHIFT)

/* Whether a connection has no place of its backend's, or may have none any more. */
step bool lost_nat_place(u64 state)
{
	u64 flags = state >> FLOW_FLAGS_SHIFT;

	if (flags & NAT_RESET || (flags & NAT_CLOSED) == NAT_CLOSED)
		return nat_age(nat_now(), state) > NAT_ROOM_CLOSING - NAT_ROOM_MARGIN;
	return (flags & NAT_OPEN) != NAT_OPEN &&
	       nat_age(nat_now(), state) > NAT_ROOM_HALF_OPEN - NAT_ROOM_MARGIN;
}

/* Has a connection of which another packet has come keep its place, or take one again. */
step void keep_nat_place(u64 state)
{
	u32 backend = flow_backend(state);

	if (unlikely(lost_nat_place(state)) && ability(backend) & LIMITED)
		take_place(backend, true);
}

#define NAT_SEE_TRIES 2

/* Notes a packet of a connection: that it has come, and what it says. */
step void see_connection(struct translation *t, u64 state, u64 flags)
{
	u32 now = nat_now();

	keep_nat_place(state);
	for (int i = 0; i < NAT_SEE_TRIES; i++) {
		u64 next = state | flags << FLOW_FLAGS_SHIFT, found;

		if (nat_age(now, state) >= NAT_REFRESH_AGE)
			next = (next & ~(u64)FLOW_TICK_MASK) | now;
		if (next == state)
			return;
		found = __sync_val_compare_and_swap(&t->state, state, next);
		/* Another packet of it came in between, unless the port is another's by now. */
		if (found == state || nat_generation(found) != nat_generation(state))
			return;
		state = found;
	}
}

/* Whether a connection's client may go on with it, on its backend. */
step bool connection_stays(const struct packet *pkt, u64 state, u8 able)
{
	u64 flags = state >> FLOW_FLAGS_SHIFT;

	if (!(able & KEEPS_FLOWS))
		return false;
	if (!pkt->opener || pkt->protocol != IPPROTO_TCP)
		return true;
	/* A SYN comes again, or begins another connection from the same port. */
	return able & TAKES_FLOWS && !(flags & (NAT_RESET | NAT_CLIENT_CLOSED));
}
