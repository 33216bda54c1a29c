// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Both ends of a wire that frames go round: one makes them and counts those that come
 * back, the other has the program under test, or the least that there can be. And the least
 * that can be put in Steelyard's place where clients are real.
 */
#include "generate.h"
#include "types.h"

/* Frames that came back, or packets that were sent on, on each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} seen SEC(".maps");

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

step void count_one(void)
{
	u32 only = 0;
	u64 *n = bpf_map_lookup_elem(&seen, &only);

	if (n)
		(*n)++;
}

SEC("xdp.frags")
int count(struct xdp_md *ctx)
{
	(void)ctx;
	count_one();
	return XDP_DROP;
}

/* What the least that a balancer can be needs to know: a VIP, its own MAC address and those of
 * two backends. */
const volatile __be32 vip;
const volatile u8 own_mac[ETH_ALEN], backend_macs[2][ETH_ALEN];

/* Sends packets for the VIP to one of two backends, by the port that they come from. */
SEC("xdp.frags")
int to_backend(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	bool second;

	if ((void *)(tcp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->daddr != vip)
		return XDP_PASS;
	/* The kernel gives connections every second port. */
	second = bpf_ntohs(tcp->source) >> 1 & 1;

	for (int i = 0; i < ETH_ALEN; i++) {
		eth->h_source[i] = own_mac[i];
		eth->h_dest[i] = second ? backend_macs[1][i] : backend_macs[0][i];
	}
	count_one();
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
