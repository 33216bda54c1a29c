/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Source lists: whether an address is on a list of prefixes. A list is a map of its
 * own, never changed once packets can see it: another one takes its place in one step.
 *
 * It is a tree of runs. A run stands for 16 bits of the address: its nodes are sorted,
 * each holds from its first value up to the next node's, and says that addresses are
 * on the list, or not, or which run knows more. A run of all 65536 values is read at
 * once, others are halved. pkg/dataplane/sourcelist.go makes them.
 */
#pragma once

#include "types.h"

struct list_node {
	u32 below; /* first node of the run below, or LIST_OUT or LIST_IN */
	u16 first; /* the least value that it stands for */
	u16 last;  /* index, in the run below, of its last node */
};

_Static_assert(sizeof(struct list_node) == 8, "array elements are multiples of 8 bytes");

/* What a node says by itself. The first nodes stand for all addresses of a family. */
enum list_answer {
	LIST_OUT,
	LIST_IN,
	LIST_IPV4 = 0,
	LIST_IPV6 = 1,
};

#define LIST_CHUNK 16
#define LIST_DENSE 0xffff /* last of a run with all values */
#define LIST_LEVELS (128 / LIST_CHUNK)

struct source_list {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct list_node);
};

/* By their numbers; 0 is no list. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct source_list);
} source_lists SEC(".maps");

/* The index of the node that knows of a value in the run that another node names. */
step u32 find_node(void *list, const struct list_node *above, u32 value)
{
	u32 base = above->below, low = 0, high = above->last;

	if (high == LIST_DENSE)
		return base + value;
#pragma clang loop unroll(disable)
	for (int i = 0; i < LIST_CHUNK && low < high; i++) {
		u32 middle = (low + high + 1) / 2, at = base + middle;
		struct list_node *node = bpf_map_lookup_elem(list, &at);

		if (!node)
			return 0;
		if (value < node->first)
			high = middle - 1;
		else
			low = middle;
	}
	return base + low;
}

/*
 * Whether a list has an address, given from the highest bits on in host byte order:
 * those of IPv4 are the upper half of the first word.
 */
side_step u32 on_list(u64 high, u64 low, u32 number, u32 ipv6)
{
	void *list = bpf_map_lookup_elem(&source_lists, &number);
	u32 at = ipv6 ? LIST_IPV6 : LIST_IPV4;

	if (!list)
		return false;
#pragma clang loop unroll(disable)
	for (int i = 0; i <= LIST_LEVELS; i++) {
		struct list_node *node = bpf_map_lookup_elem(list, &at);

		if (!node || node->below == LIST_OUT)
			return false;
		if (node->below == LIST_IN)
			return true;
		at = find_node(list, node, high >> 48);
		high = high << LIST_CHUNK | low >> (64 - LIST_CHUNK);
		low <<= LIST_CHUNK;
	}
	return false;
}
