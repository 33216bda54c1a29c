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
	NAT_FACT_TAG = 4,     /* the frame has a VLAN tag */
	NAT_FACT_SPLICED = 8, /* it began with a SYN cookie */
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

/* The first translation of the address that a flow comes from, NAT_NONE if there is none. */
step u32 nat_base(u64 hash, u32 facts)
{
	u32 number = hash >> 32, udp = facts & NAT_FACT_TCP ? 0 : NAT_UDP_BIT;

	if (!(facts & NAT_FACT_IPV4 ? nat_sources_ipv4 : nat_sources_ipv6))
		return NAT_NONE;
	if (facts & NAT_FACT_IPV4)
		number &= nat_sources_ipv4 - 1;
	else
		number = nat_sources_ipv4 + (number & (nat_sources_ipv6 - 1));
	return number << NAT_ADDRESS_SHIFT | udp;
}

/* Ends a connection whose state is still what it was, so that its client may begin another. */
step void close_connection(u64 hash, u32 index, u64 was)
{
	if (free_translation(index, was))
		drop_session(hash, index);
}

/* Of two CPUs that have begun one connection, each has given way to the other. */
#define NAT_LOST (NAT_NONE - 1)

/*
 * Begins a connection to a backend. Returns the index of its translation, or NAT_NONE
 * where no port is free. If another CPU has begun the same one, that one counts; if that
 * one has given way as well, NAT_LOST is returned.
 */
side_step u32 open_connection(struct xdp_md *ctx, const struct tuple *client, u64 hash, u32 backend,
			      u32 facts)
{
	u32 base = nat_base(hash, facts), index, other;
	u32 protocol = facts & NAT_FACT_TCP ? IPPROTO_TCP : IPPROTO_UDP;
	struct translation *t;
	u64 state, flags = NAT_USED;

	if (!client || base == NAT_NONE)
		return NAT_NONE;
	index = take_port(base, hash);
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
	*(volatile u64 *)&t->state = state;
	if (!add_session(hash, index)) {
		free_translation(index, state);
		return NAT_NONE;
	}
	other = find_session(client, hash, protocol, index);
	if (other == NAT_NONE) {
		count_flow(NAT_OPENED);
		return index;
	}
	close_connection(hash, index, state);
	t = translation_at(other);
	return t && is_of(t, client) ? other : NAT_LOST;
}

#define NAT_SEE_TRIES 2

/* Notes a packet of a connection: that it has come, and what it says. */
step void see_connection(struct translation *t, u64 state, u64 flags)
{
	u32 now = nat_now();

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
