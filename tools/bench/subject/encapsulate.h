/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bytes that IP-in-IP puts before a packet, for the programs that Steelyard is
 * compared with. Like theirs, its MAC addresses are constants.
 */
#pragma once

#include "types.h"

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

step u32 sum_halves(__be32 word)
{
	return (word & 0xffff) + (word >> 16);
}

step int encapsulate_ipv4(struct xdp_md *ctx, __be32 source, __be32 destination)
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
		.saddr = source,
		.daddr = destination,
	};
	/* The constant words: 0x4500 and 0x4004. */
	outer->check = ~fold_checksum(length + bpf_htons(0x4500) + bpf_htons(0x4004) +
				      sum_halves(source) + sum_halves(destination));
	return XDP_TX;
}

step int encapsulate_ipv6(struct xdp_md *ctx, const struct in6_addr *source,
			  const struct in6_addr *destination)
{
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
		.saddr = *source,
		.daddr = *destination,
	};
	return XDP_TX;
}
