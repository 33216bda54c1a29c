/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Limit: how many packets, or new connections, may come in a second. A bucket of
 * tokens is one word, the time at which it was last empty: it holds what has come in
 * since, but no more than a burst. It is shared by all CPUs, and only who takes a
 * token writes to it, so that no flood makes CPUs wait for each other more often than
 * the limit is high. pkg/dataplane/limits.go is its twin in Go.
 *
 * Buckets of sources are in a table of lines of four, of a fixed size: the one that
 * has been left alone for longest gives way, and its source begins anew.
 */
#pragma once

#include "affinity.h"
#include "types.h"

const volatile u32 source_mask; /* number of lines, a power of two, less one */

/* Times are in sixteenths of a nanosecond, so that high rates are exact to a percent. */
#define LIMIT_TIME_SHIFT 4

/* Before the kernel started: a bucket that nobody has used is full, however large. */
#define LIMIT_EPOCH (1ULL << 62)

#define LIMIT_TRIES 4

struct limit {
	u64 cost;  /* time in which a token comes; 0: no limit */
	u64 burst; /* time that fills the bucket */
};

/* The buckets of a VIP: of packets and connections, and of SYNs that are given no cookie. */
struct vip_buckets {
	u64 empty[2];
	u64 syns;
	u64 reserved[5];
};

_Static_assert(sizeof(struct vip_buckets) == 64, "VIPs do not share a cache line");

struct source_bucket {
	u64 key; /* 0: nobody's */
	u64 empty;
};

struct source_line {
	struct source_bucket bucket[4];
};

_Static_assert(sizeof(struct source_line) == 64, "a line of buckets is one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct vip_buckets);
} vip_buckets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct source_line);
} source_buckets SEC(".maps");

step u64 limit_now(void)
{
	return LIMIT_EPOCH + (bpf_ktime_get_coarse_ns() << LIMIT_TIME_SHIFT);
}

/* When a bucket will have been empty once a token is taken; 0 if it has none. */
step u64 take_token(u64 empty, u64 now, u64 cost, u64 burst)
{
	if (empty + burst < now)
		empty = now - burst;
	return empty + cost > now ? 0 : empty + cost;
}

/* Takes a token from a bucket; false if there is none. */
step bool take(u64 *bucket, u64 now, const struct limit *l)
{
	u64 cost = l->cost, burst = l->burst;

#pragma clang loop unroll(disable)
	for (int i = 0; i < LIMIT_TRIES; i++) {
		u64 was = *(volatile u64 *)bucket;
		u64 next = take_token(was, now, cost, burst);

		if (!next)
			return false;
		if (__sync_val_compare_and_swap(bucket, was, next) == was)
			return true;
	}
	/* Others have been faster all the time: the token is taken, whoever has it. */
	__sync_fetch_and_add(bucket, cost);
	return true;
}

/* What a source is called among all sources of all VIPs. */
step u64 bucket_key(u64 high, u64 low, u32 salt)
{
	struct address source = { .word = { high, low } };

	return source_hash(&source, salt) | 1;
}

/* What became of a look for a source's bucket. */
enum taken {
	TOKEN_TAKEN,
	TOKEN_NONE,
	TOKEN_FORGOT, /* taken, and a bucket has given way that was not full */
};

/* Takes a token from the bucket of a source, or from a new one. Returns an enum taken. */
side_step u32 take_from_source(u64 key, u64 now, u64 cost, u64 burst)
{
	u32 at = key >> 32 & source_mask, oldest = 0;
	struct source_line *line = bpf_map_lookup_elem(&source_buckets, &at);
	struct limit l = { .cost = cost, .burst = burst };
	u64 was = 0, empty = ~0ULL;

	if (!line)
		return TOKEN_TAKEN;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 4; i++) {
		volatile struct source_bucket *b = &line->bucket[i & 3];
		u64 known = b->key;

		if (known == key)
			return take(&line->bucket[i & 3].empty, now, &l) ? TOKEN_TAKEN : TOKEN_NONE;
		if (b->empty < empty) {
			empty = b->empty;
			oldest = i;
			was = known;
		}
	}
	if (__sync_val_compare_and_swap(&line->bucket[oldest & 3].key, was, key) == was)
		__sync_val_compare_and_swap(&line->bucket[oldest & 3].empty, empty,
					    now - burst + cost);
	return empty + burst > now ? TOKEN_FORGOT : TOKEN_TAKEN;
}
