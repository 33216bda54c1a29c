// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Both ends of a wire that frames go round: one makes them and counts those that come
 * back, the other has the program under test, or the least that there can be.
 */
#include "generate.h"
#include "types.h"

/* Frames that came back, on each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} returned SEC(".maps");

/* The kernel runs it on frames of its own, and sends each through the interface that it
 * is told they came from. */
SEC("xdp.frags")
int generator(struct xdp_md *ctx)
{
	return generate(ctx) ? XDP_TX : XDP_ABORTED;
}

/* Any program that sends frames back does this at least. */
SEC("xdp.frags")
int send_back(struct xdp_md *ctx)
{
	u16 *mac = (void *)(long)ctx->data;

	if ((void *)(mac + ETH_ALEN) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	for (int i = 0; i < ETH_ALEN / 2; i++) {
		u16 to = mac[i];

		mac[i] = mac[i + ETH_ALEN / 2];
		mac[i + ETH_ALEN / 2] = to;
	}
	return XDP_TX;
}

SEC("xdp.frags")
int count(struct xdp_md *ctx)
{
	u32 only = 0;
	u64 *n = bpf_map_lookup_elem(&returned, &only);

	(void)ctx;
	if (n)
		(*n)++;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
