/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guard: what of a VIP's packets is dropped although it is well-formed and there is
 * a backend for it. It is asked before slot and flow table, so that what it drops
 * leaves no trace there.
 */
#pragma once

#include "affinity.h"
#include "count.h"
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
	u16 reserved[27];
};

_Static_assert(sizeof(struct guard) == 64, "a guard is one cache line");

/* By the numbers of VIPs' counters. The last one is that of addresses whose VIPs differ. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct guard);
} guards SEC(".maps");

/* What guards did, by the reasons from the first to the last of them. */
#define GUARD_REASONS (DROP_NOT_ALLOWED - DROP_TCP_FLAGS + 1)

struct guard_counters {
	u64 dropped[GUARD_REASONS];
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

/* Whose address a packet has, and whose it is about. */
step u64 sources_of(const struct packet *pkt)
{
	u32 source = pkt->l3 + (pkt->ipv6 ? 8 : 12);

	return source | client_offset(pkt) << 16 | (u64)pkt->ipv6 << 32;
}

/*
 * Holds the source of a packet against the lists of a guard. Of an ICMP error it is the
 * client that must be allowed, and neither of both denied. Returns an enum reason, 0
 * if there is nothing against it.
 */
side_step u32 check_lists(struct xdp_md *ctx, u64 where, u32 index)
{
	u32 source_at = where & 0xffff, client_at = where >> 16 & 0xffff, ipv6 = where >> 32;
	struct guard *g = bpf_map_lookup_elem(&guards, &index);
	struct source s;

	if (!g || !load_source(ctx, source_at, ipv6, &s))
		return 0;
	if (listed(&s, g->bogus))
		return DROP_BOGUS_SOURCE;
	if (denied(&s, g))
		return DROP_DENIED;
	if (client_at != source_at) {
		if (!load_source(ctx, client_at, ipv6, &s))
			return 0;
		if (denied(&s, g))
			return DROP_DENIED;
	}
	return excluded(&s, g->allow) || excluded(&s, g->allow_all) ? DROP_NOT_ALLOWED : 0;
}

side_step int count_guard(u32 vip, u32 reason)
{
	struct guard_counters *c = bpf_map_lookup_elem(&guard_counters, &vip);
	u32 at = reason - DROP_TCP_FLAGS;

	if (c && at < GUARD_REASONS)
		c->dropped[at]++;
	return 0;
}

/* TX_FORWARDED, or why a packet for a VIP with these flags goes no further. */
step enum reason guard(struct xdp_md *ctx, const struct packet *pkt, u32 vip, u32 flags)
{
	u32 reason = screen(ctx, pkt);

	if (!reason && flags & VIP_GUARDED)
		reason = check_lists(ctx, sources_of(pkt), vip);
	if (!reason)
		return TX_FORWARDED;
	count_packet(&vip_counters, vip, pkt);
	count_guard(vip, reason);
	return reason;
}

/* The same by the lists that hold for a VIP's address as a whole. */
step enum reason guard_address(struct xdp_md *ctx, const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();
	struct vip_entry *address;
	u32 reason;

	if (!table || !table->guarded)
		return TX_FORWARDED;
	address = find_key(table, &pkt->destination, ENDPOINT_ADDRESS);
	if (!address || !(address->flags & VIP_GUARDED))
		return TX_FORWARDED;
	reason = check_lists(ctx, sources_of(pkt), address->vip);
	return reason ? reason : TX_FORWARDED;
}
