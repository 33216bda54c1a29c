/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sessions: which translation a client's packet is of, where that is not at home. A table
 * of buckets, one cache line each, and what has no room in its bucket is next door. It only
 * says where to look: what the translation there says is compared with the packet, whole.
 */
#pragma once

#include "home.h"

/* Words of a hash's upper half and, below it, the index of a translation, plus 1. */
struct session_bucket {
	u64 word[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct session_bucket);
} sessions SEC(".maps");

const volatile u32 session_mask; /* number of buckets, a power of two, less one */

step u32 session_bucket_of(u64 hash)
{
	return hash & session_mask;
}

#define SESSION_TAG 0xffffffff00000000ULL

/* The index of a session's translation in one bucket, other than one, or NAT_NONE. */
step u32 find_session_in(struct session_bucket *b, const struct tuple *client, u64 hash,
			 u32 protocol_bit, u32 other)
{
	for (int i = 0; i < 8; i++) {
		u64 word = ((volatile struct session_bucket *)b)->word[i];
		u32 index = (u32)word - 1;
		struct translation *t;

		if (!word || (word ^ hash) & SESSION_TAG || index == other ||
		    (index & NAT_UDP_BIT) != protocol_bit)
			continue;
		t = translation_at(index);
		if (t && is_of(t, client))
			return index;
	}
	return NAT_NONE;
}

/* The index of the translation of a client's packet, other than one, or NAT_NONE. */
side_step u32 find_session(const struct tuple *client, u64 hash, u32 protocol, u32 other)
{
	u32 at = session_bucket_of(hash), index;
	u32 bit = protocol == IPPROTO_UDP ? NAT_UDP_BIT : 0;
	struct session_bucket *b;

	if (!client)
		return NAT_NONE;
	index = find_at_home(client, home_of(client, hash, protocol), other);
	if (index != NAT_NONE)
		return index;
	b = bpf_map_lookup_elem(&sessions, &at);
	if (!b)
		return NAT_NONE;
	index = find_session_in(b, client, hash, bit, other);
	if (index != NAT_NONE)
		return index;
	at = (at ^ 1) & session_mask;
	b = bpf_map_lookup_elem(&sessions, &at);
	return b ? find_session_in(b, client, hash, bit, other) : NAT_NONE;
}

/* Whether a word of a session may be written over: nothing is there that it names. */
step bool is_stale(u64 word)
{
	struct translation *t;

	if (!word)
		return true;
	t = translation_at((u32)word - 1);
	return !t || !(t->state >> FLOW_FLAGS_SHIFT);
}

step bool add_session_to(struct session_bucket *b, u64 word)
{
	for (int i = 0; i < 8; i++) {
		u64 was = ((volatile struct session_bucket *)b)->word[i];

		if (is_stale(was) && __sync_val_compare_and_swap(&b->word[i], was, word) == was)
			return true;
	}
	return false;
}

/* Whether packets of a client's flow find a translation without a session. */
step bool needs_no_session(const struct tuple *client, u64 hash, u32 index)
{
	return is_at_home(home_of(client, hash, protocol_of(index)), index);
}

/*
 * Enters a translation's index under the hash of its session, unless it is at home; false if
 * there is no room.
 */
side_step u32 add_session(const struct tuple *client, u64 hash, u32 index)
{
	u64 word = (hash & SESSION_TAG) | (index + 1);
	u32 at = session_bucket_of(hash);
	struct session_bucket *b;

	if (!client)
		return false;
	if (needs_no_session(client, hash, index))
		return true;
	b = bpf_map_lookup_elem(&sessions, &at);
	if (b && add_session_to(b, word))
		return true;
	at = (at ^ 1) & session_mask;
	b = bpf_map_lookup_elem(&sessions, &at);
	return b && add_session_to(b, word);
}

step bool drop_session_from(struct session_bucket *b, u64 word)
{
	for (int i = 0; i < 8; i++)
		if (((volatile struct session_bucket *)b)->word[i] == word)
			return __sync_val_compare_and_swap(&b->word[i], word, 0) == word;
	return false;
}

/* Takes out what add_session has entered. Returns 0. */
side_step int drop_session(const struct tuple *client, u64 hash, u32 index)
{
	u64 word = (hash & SESSION_TAG) | (index + 1);
	u32 at = session_bucket_of(hash);
	struct session_bucket *b;

	if (!client || needs_no_session(client, hash, index))
		return 0;
	b = bpf_map_lookup_elem(&sessions, &at);
	if (!b || drop_session_from(b, word))
		return 0;
	at = (at ^ 1) & session_mask;
	b = bpf_map_lookup_elem(&sessions, &at);
	if (b)
		drop_session_from(b, word);
	return 0;
}
