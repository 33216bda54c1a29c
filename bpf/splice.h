/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Splices: connections that began with a SYN cookie (RFC 4987, section 3.6). What the
 * client takes for its peer's initial sequence number is the cookie, and the backend,
 * which hears of the connection when the client has returned that, has another: what
 * is between them is the difference of all sequence numbers from then on.
 *
 * A splice is known by the tuple of the client's packets. None is made but for a valid
 * cookie, so a flood makes none. When there are too many, those go that have been silent
 * longest.
 */
#pragma once

#include "limit.h"
#include "translation.h"

/*
 * The state is one word: in bits 0 to 31 by how much the backend's sequence numbers are
 * ahead of those that the client knows, in 32 to 47 the window that the client opened the
 * connection with, as on the wire, in 48 to 63 enum splice_flag.
 */
struct splice {
	u32 isn;    /* the client's initial sequence number */
	u32 cookie; /* what the client takes for the backend's */
	u64 state;
	u32 asked; /* that of a SYN that has been given a cookie since */
	u32 reserved;
};

#define SPLICE_WINDOW_SHIFT 32
#define SPLICE_FLAGS_SHIFT 48
#define SPLICE_FLAG(flag) ((u64)(flag) << SPLICE_FLAGS_SHIFT)

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct tuple);
	__type(value, struct splice);
} splices SEC(".maps");

/* When each VIP last gave a cookie, in ticks of the translations' clock, plus 1; 0: never. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} syn_given SEC(".maps");

/* How long a cookie is valid at most: 130 s, in ticks. The kernel's are for 120 s. */
#define SYN_COOKIE_TICKS (130ULL * 1000000000 >> NAT_TICK_SHIFT)

step u64 syn_tick(void)
{
	return (bpf_ktime_get_coarse_ns() >> NAT_TICK_SHIFT) + 1;
}

/* Notes that a VIP gives a cookie; all CPUs read the word, so few packets write. */
step void note_cookie(u32 vip)
{
	u64 *given = bpf_map_lookup_elem(&syn_given, &vip), now = syn_tick();

	if (given && *given != now)
		*given = now;
}

/* Whether a VIP has ever given a cookie; if so, connections of it may be spliced. */
step bool may_splice(u32 vip)
{
	u64 *given = bpf_map_lookup_elem(&syn_given, &vip);

	return given && *given;
}

/* Whether a VIP's cookies may come back. */
step bool expects_cookies(u32 vip)
{
	u64 *given = bpf_map_lookup_elem(&syn_given, &vip);

	return given && *given && syn_tick() - *given <= SYN_COOKIE_TICKS;
}

/* Whether a SYN of a VIP is below its rate: of a second's at once there are tokens. */
step bool syn_allowed(u32 vip)
{
	struct nat_timeout *t = bpf_map_lookup_elem(&nat_timeouts, &vip);
	struct vip_buckets *b = bpf_map_lookup_elem(&vip_buckets, &vip);
	struct limit limit = { .burst = 1000000000ULL << LIMIT_TIME_SHIFT };
	u32 rate = t ? t->syn_rate : 0;

	if (!rate || !b)
		return true;
	limit.cost = limit.burst / rate;
	return take(&b->syns, limit_now(), &limit);
}

step u64 splice_flags(const struct splice *s)
{
	return s->state >> SPLICE_FLAGS_SHIFT;
}
