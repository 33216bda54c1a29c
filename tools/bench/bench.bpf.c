// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The generator of the benchmark. The kernel runs a program over and over on one
 * frame, and what one run encapsulates is the next run's input. So each program
 * here first puts the frame back to what it was, with another flow's addresses,
 * and then does, or has done, what is measured.
 */
#include "types.h"

#define FRAME_LENGTH 78
#define FRAME_WORDS 10
#define MAX_GROWTH 64 /* of what a program under test puts before the frame */

/* The frame of flow 0: its first 8 bytes, then all from the 6th on. */
const volatile u64 frame[FRAME_WORDS];
const volatile bool ipv6;
/* Where it goes to: the address as the last bytes of this word, and the port. */
const volatile u64 destination;
const volatile __be16 port;
/* How many addresses flows go to. If it is not 1, they differ in the last 2 bytes, from 0 on. */
const volatile u32 destinations;

/* Flows that take turns. */
volatile u64 flows;
/* The flow whose turn it is. */
volatile u64 turn;
/* Frames made, ever. */
volatile u64 generated;

/* The program under test, at 0. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} under_test SEC(".maps");

step u64 next_flow(void)
{
	u64 flow = turn;

	turn = flow + 1 < flows ? flow + 1 : 0;
	return flow;
}

/* Where addresses and ports lie in the frame. */
enum {
	IPV4_ADDRESSES = sizeof(struct ethhdr) + 12,
	IPV4_PORTS = sizeof(struct ethhdr) + sizeof(struct iphdr),
	IPV6_SOURCE_END = sizeof(struct ethhdr) + 16,
	IPV6_DESTINATION_END = sizeof(struct ethhdr) + 32,
	IPV6_PORTS = sizeof(struct ethhdr) + sizeof(struct ipv6hdr),
};

/*
 * The low half of the product is another one for each flow, and so are source address
 * and port. IPv4 sources are from 128.0.0.0/2, where all are addresses of hosts.
 */
step void write_flow(void *to, u64 flow)
{
	u64 spread = flow * 0x6a09e667f3bcc909ULL;
	u32 low = spread, source = low ^ low >> 16, ports = (u32)port << 16 | (u16)(spread >> 32);
	u64 address = destination;

	if (destinations > 1)
		address |= (u64)bpf_htons(((spread >> 32) * destinations) >> 32) << 48;
	if (ipv6) {
		*(u64 *)(to + IPV6_SOURCE_END) = (u64)source << 32;
		*(u64 *)(to + IPV6_DESTINATION_END) = address;
		*(u32 *)(to + IPV6_PORTS) = ports;
	} else {
		*(u64 *)(to + IPV4_ADDRESSES) = address | (source & ~0xc0u) | 0x80;
		*(u32 *)(to + IPV4_PORTS) = ports;
	}
}

/*
 * Makes the next frame. The frame is longer than it was by what the last run put
 * before it, which is taken off again.
 *
 * A CPU that reads what it has just written waits, unless one write made all of
 * what is read. A program that reads a frame from a NIC never waits so, and should
 * not here: what headers hold together is written together, and the helper is
 * called after the writing, even if there is nothing to take off. So every program
 * also pays the same for its frame.
 */
step bool generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u64 growth = end - data - FRAME_LENGTH;
	void *to;

	barrier_var(growth);
	if (growth > MAX_GROWTH)
		return false;
	to = data + growth;
	if (to + FRAME_LENGTH > end)
		return false;
	*(u64 *)to = frame[0];
	for (int i = 1; i < FRAME_WORDS; i++)
		*(u64 *)(to + 8 * i - 2) = frame[i];
	write_flow(to, next_flow());
	if (bpf_xdp_adjust_head(ctx, growth))
		return false;
	generated++;
	return true;
}

/* In whole words: struct ethhdr is packed, so through it each byte is written by itself. */
step void write_macs(void *eth)
{
	*(u64 *)eth = 0x0002020100000002ULL;
	*(u32 *)(eth + 8) = 0x02010000;
}

step void write_type(void *eth, __be16 type)
{
	*(__be16 *)(eth + 2 * ETH_ALEN) = type;
}

step int encapsulate_ipv4(struct xdp_md *ctx)
{
	struct ethhdr *eth;
	struct iphdr *outer, *inner;
	__be16 length;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return XDP_ABORTED;
	eth = (void *)(long)ctx->data;
	outer = (void *)(eth + 1);
	inner = outer + 1;
	if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_macs(eth);
	write_type(eth, bpf_htons(ETH_P_IP));
	length = bpf_htons(bpf_ntohs(inner->tot_len) + sizeof(*outer));
	*outer = (struct iphdr){
		.version = 4,
		.ihl = sizeof(*outer) / 4,
		.tot_len = length,
		.ttl = 64,
		.protocol = IPPROTO_IPIP,
		.saddr = bpf_htonl(0xc6130001),
		.daddr = bpf_htonl(0xc6130101),
	};
	/* The constant words: 0x4500, 0x4004, and both addresses. */
	outer->check =
		~fold_checksum(length + bpf_htons(0x4500) + bpf_htons(0x4004) +
			       2 * bpf_htons(0xc613) + bpf_htons(0x0001) + bpf_htons(0x0101));
	return XDP_TX;
}

step int encapsulate_ipv6(struct xdp_md *ctx)
{
	const struct in6_addr source = { .s6_addr = { 0x20, 1, 0, 2, [15] = 1 } };
	const struct in6_addr destination = { .s6_addr = { 0x20, 1, 0, 2, [15] = 2 } };
	struct ethhdr *eth;
	struct ipv6hdr *outer, *inner;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return XDP_ABORTED;
	eth = (void *)(long)ctx->data;
	outer = (void *)(eth + 1);
	inner = outer + 1;
	if ((void *)(inner + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_macs(eth);
	write_type(eth, bpf_htons(ETH_P_IPV6));
	*outer = (struct ipv6hdr){
		.version = 6,
		.payload_len = bpf_htons(bpf_ntohs(inner->payload_len) + sizeof(*inner)),
		.nexthdr = IPPROTO_IPV6,
		.hop_limit = 64,
		.saddr = source,
		.daddr = destination,
	};
	return XDP_TX;
}

step int readdress(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_macs(eth);
	return XDP_TX;
}

/* What is left of the measuring when nothing is measured. */
SEC("xdp.frags")
int generator(struct xdp_md *ctx)
{
	return generate(ctx) ? XDP_TX : XDP_ABORTED;
}

/* What no load balancer can do without: the bytes that it must write, here constant. */
SEC("xdp.frags")
int floor_ipip_ipv4(struct xdp_md *ctx)
{
	return generate(ctx) ? encapsulate_ipv4(ctx) : XDP_ABORTED;
}

SEC("xdp.frags")
int floor_ipip_ipv6(struct xdp_md *ctx)
{
	return generate(ctx) ? encapsulate_ipv6(ctx) : XDP_ABORTED;
}

SEC("xdp.frags")
int floor_l2(struct xdp_md *ctx)
{
	return generate(ctx) ? readdress(ctx) : XDP_ABORTED;
}

/* Hands the frame to the program under test. */
SEC("xdp.frags")
int call(struct xdp_md *ctx)
{
	if (!generate(ctx))
		return XDP_ABORTED;
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

/* Under test, the cost of the call itself. */
SEC("xdp.frags")
int transmit(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
