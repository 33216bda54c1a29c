/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guard: what of a VIP's packets is dropped although it is well-formed and there is
 * a backend for it. It is asked before slot and flow table, so that what it drops
 * leaves no trace there.
 */
#pragma once

#include "affinity.h"
#include "count.h"
#include "limit.h"
#include "quic.h"
#include "screen.h"
#include "sourcelist.h"
#include "vip.h"

/* What packets of a VIP must pass; of use with VIP_GUARDED. */
struct guard {
	/* Numbers of source lists, 0 for none. They change in one step. */
	u16 deny;
	u16 allow; /* if there is one, what is not on it is denied */
	u16 deny_all;
	u16 allow_all; /* those of all VIPs */
	u16 bogus;
	u16 observed;     /* bit per enum limited: it only counts */
	u32 mask_ipv4;    /* of a source, in host byte order as the next */
	u64 mask_ipv6[2]; /* upper and lower half */
	u64 reserved[4];
	struct limit limit[LIMITS];
};

_Static_assert(sizeof(struct guard) == 128, "a guard is two cache lines");

/* By the numbers of VIPs' counters. The last one is that of addresses whose VIPs differ. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct guard);
} guards SEC(".maps");

/* What guards did, by the reasons from the first to the last of them. */
#define GUARD_REASONS (DROP_LIMIT_CONNECTIONS - DROP_TCP_FLAGS + 1)

struct guard_counters {
	u64 dropped[GUARD_REASONS];
	u64 observed[LIMITS]; /* packets that a limit would have dropped */
	u64 forgotten;        /* buckets of sources that gave way before they were full */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct guard_counters);
} guard_counters SEC(".maps");

/* An address as lists are asked for it. */
struct source {
	u64 high;
	u64 low;
	u32 ipv6;
};

step bool load_source(struct xdp_md *ctx, u32 at, u32 ipv6, struct source *s)
{
	struct address a;

	if (!load_client(ctx, at, ipv6, &a))
		return false;
	s->ipv6 = ipv6;
	s->high = ipv6 ? bpf_be64_to_cpu(a.word[0]) : (u64)bpf_ntohl(unmap_ipv4(&a)) << 32;
	s->low = ipv6 ? bpf_be64_to_cpu(a.word[1]) : 0;
	return true;
}

step bool listed(const struct source *s, u32 number)
{
	return number && on_list(s->high, s->low, number, s->ipv6);
}

step bool excluded(const struct source *s, u32 number)
{
	return number && !on_list(s->high, s->low, number, s->ipv6);
}

step bool denied(const struct source *s, const struct guard *g)
{
	return listed(s, g->deny) || listed(s, g->deny_all);
}

/*
 * What a guard must know of a packet, in one word: where its source is, that of whom it
 * is about, and the transport header, from the lowest 16 bits on, then flags.
 */
enum guard_fact {
	GUARD_CLIENT_SHIFT = 16,
	GUARD_L4_SHIFT = 32,
	GUARD_FLAGS_SHIFT = 48,
	GUARD_IPV6 = 1,
	GUARD_OPENER = 2,
	GUARD_QUIC = 4,  /* whether it is an opener stands behind the UDP header */
	GUARD_LISTS = 8, /* only the lists count */
};

step u64 guard_facts(const struct packet *pkt, u32 vip_flags)
{
	u32 source = pkt->l3 + (pkt->ipv6 ? 8 : 12);
	u64 flags = (pkt->ipv6 ? GUARD_IPV6 : 0) | (pkt->opener ? GUARD_OPENER : 0);

	if (vip_flags & VIP_QUIC && !pkt->quoted && pkt->fragment != LATER_FRAGMENT)
		flags |= GUARD_QUIC;
	return source | (u64)client_offset(pkt) << GUARD_CLIENT_SHIFT |
	       (u64)(pkt->l4 & 0xffff) << GUARD_L4_SHIFT | flags << GUARD_FLAGS_SHIFT;
}

/*
 * Holds the source of a packet against the lists of a guard. Of an ICMP error it is the
 * client that must be allowed, and neither of both denied. Returns an enum reason, 0
 * if there is nothing against it.
 */
step u32 check_lists(struct xdp_md *ctx, u64 facts, const struct guard *g, struct source s)
{
	u32 source_at = facts & 0xffff, client_at = facts >> GUARD_CLIENT_SHIFT & 0xffff;

	if (listed(&s, g->bogus))
		return DROP_BOGUS_SOURCE;
	if (denied(&s, g))
		return DROP_DENIED;
	if (client_at != source_at) {
		if (!load_source(ctx, client_at, s.ipv6, &s))
			return 0;
		if (denied(&s, g))
			return DROP_DENIED;
	}
	return excluded(&s, g->allow) || excluded(&s, g->allow_all) ? DROP_NOT_ALLOWED : 0;
}

/* Takes a token of a source from its bucket of a kind; counts for whom no room is left. */
step bool take_of_source(const struct source *s, const struct guard *g, u32 vip, u32 kind, u64 now)
{
	u64 high = s->high & (s->ipv6 ? g->mask_ipv6[0] : (u64)g->mask_ipv4 << 32);
	u64 key = bucket_key(high, s->low & g->mask_ipv6[1], vip << 8 | kind << 1 | s->ipv6);
	u32 taken = take_from_source(key, now, g->limit[kind].cost, g->limit[kind].burst);
	struct guard_counters *c;

	if (taken == TOKEN_FORGOT) {
		c = bpf_map_lookup_elem(&guard_counters, &vip);
		if (c)
			c->forgotten++;
	}
	return taken != TOKEN_NONE;
}

/* Whether a limit of a guard lets a packet pass; one that only observes counts and does. */
step bool within(const struct source *s, const struct guard *g, u32 vip, u32 kind, u64 now)
{
	struct guard_counters *c;
	struct vip_buckets *b;

	if (!g->limit[kind].cost)
		return true;
	if (kind >= LIMITED_PACKETS) {
		b = bpf_map_lookup_elem(&vip_buckets, &vip);
		if (!b || take(&b->empty[kind - LIMITED_PACKETS], now, &g->limit[kind]))
			return true;
	} else if (take_of_source(s, g, vip, kind, now)) {
		return true;
	}
	if (!(g->observed & 1 << kind))
		return false;
	c = bpf_map_lookup_elem(&guard_counters, &vip);
	if (c)
		c->observed[kind]++;
	return true;
}

step bool opens(struct xdp_md *ctx, u64 facts)
{
	u64 flags = facts >> GUARD_FLAGS_SHIFT;

	if (!(flags & GUARD_QUIC))
		return flags & GUARD_OPENER;
	return quic_peek(ctx, facts >> GUARD_L4_SHIFT & 0xffff, 0, ~0u) & QUIC_OPENER;
}

/* Holds a packet against the limits of a guard. Returns an enum reason, or 0. */
step u32 check_limits(struct xdp_md *ctx, u64 facts, const struct guard *g, const struct source *s,
		      u32 vip)
{
	bool connections =
		g->limit[LIMITED_SOURCE_CONNECTIONS].cost || g->limit[LIMITED_CONNECTIONS].cost;
	u64 now;

	if (!connections && !g->limit[LIMITED_SOURCE_PACKETS].cost &&
	    !g->limit[LIMITED_PACKETS].cost)
		return 0;
	now = limit_now();
	connections = connections && opens(ctx, facts);
	if (!within(s, g, vip, LIMITED_SOURCE_PACKETS, now))
		return DROP_LIMIT_SOURCE_PACKETS;
	if (connections && !within(s, g, vip, LIMITED_SOURCE_CONNECTIONS, now))
		return DROP_LIMIT_SOURCE_CONNECTIONS;
	if (!within(s, g, vip, LIMITED_PACKETS, now))
		return DROP_LIMIT_PACKETS;
	if (connections && !within(s, g, vip, LIMITED_CONNECTIONS, now))
		return DROP_LIMIT_CONNECTIONS;
	return 0;
}

/* Holds a packet against the guard of an index. Returns an enum reason, or 0. */
side_step u32 check_guard(struct xdp_md *ctx, u64 facts, u32 index)
{
	struct guard *g = bpf_map_lookup_elem(&guards, &index);
	u64 flags = facts >> GUARD_FLAGS_SHIFT;
	struct source s;
	u32 reason;

	if (!g || !load_source(ctx, facts & 0xffff, flags & GUARD_IPV6, &s))
		return 0;
	reason = check_lists(ctx, facts, g, s);
	if (reason || flags & GUARD_LISTS)
		return reason;
	return check_limits(ctx, facts, g, &s, index);
}

/* Counts a packet of some bytes that a guard drops. Returns the reason. */
side_step u32 drop_guarded(u32 vip, u32 reason, u32 length, u32 opener)
{
	struct packet pkt = { .length = length, .opener = opener };
	struct guard_counters *c = bpf_map_lookup_elem(&guard_counters, &vip);
	u32 at = reason - DROP_TCP_FLAGS;

	if (c && at < GUARD_REASONS)
		c->dropped[at]++;
	count_for_vip(vip, &pkt);
	return reason;
}

/* TX_FORWARDED, or why a packet for a VIP with these flags goes no further. */
step enum reason guard(struct xdp_md *ctx, const struct packet *pkt, u32 vip, u32 flags)
{
	u32 reason = screen(ctx, pkt);

	if (unlikely(flags & VIP_GUARDED) && !reason)
		reason = check_guard(ctx, guard_facts(pkt, flags), vip);
	if (unlikely(reason))
		return drop_guarded(vip, reason, pkt->length, pkt->opener);
	return TX_FORWARDED;
}

/* The same by the lists that hold for a VIP's address as a whole. */
step enum reason guard_address(struct xdp_md *ctx, const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();
	struct vip_entry *address;
	u32 reason;

	if (!table->guarded)
		return TX_FORWARDED;
	address = find_key(table, &pkt->destination, ENDPOINT_ADDRESS);
	if (!address || !(address->flags & VIP_GUARDED))
		return TX_FORWARDED;
	reason = check_guard(ctx, guard_facts(pkt, 0) | (u64)GUARD_LISTS << GUARD_FLAGS_SHIFT,
			     address->vip);
	return reason ? reason : TX_FORWARDED;
}
