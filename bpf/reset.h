/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reset: a TCP RST in answer to a segment, as a closed port gives it
 * (RFC 9293, section 3.10.7.1). IP options, extension headers and payload go.
 */
#pragma once

#include "answer.h"
#include "sum.h"

/* The segment that resets, in the terms of the one that it answers. */
step void make_rst(struct tcphdr *rst, const struct tcphdr *tcp, u32 segment_length)
{
	__builtin_memset(rst, 0, sizeof(*rst));
	rst->source = tcp->dest;
	rst->dest = tcp->source;
	rst->doff = sizeof(*rst) / 4;
	rst->rst = 1;
	if (tcp->ack) {
		rst->seq = tcp->ack_seq;
	} else {
		rst->ack = 1;
		rst->ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + segment_length);
	}
}

/* The sum of a TCP header and the pseudo header before it. */
step u16 tcp_checksum(const struct tcphdr *tcp, u64 addresses)
{
	const u16 *word = (const void *)tcp;
	u64 sum = addresses + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(*tcp));

	for (int i = 0; i < (int)sizeof(*tcp) / 2; i++)
		sum += word[i];
	return ~fold_sum(sum);
}

/* Writes IPv4 header and segment at the IP header's place; returns false if cut off. */
step bool write_rst_ipv4(struct xdp_md *ctx, u32 l3, struct tcphdr *rst)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + (l3 & L3_MASK);

	if ((void *)(ip + 1) + sizeof(*rst) > end)
		return false;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*rst));
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->tos = 0;
	turn_ipv4(ip);
	ip->check = 0;
	ip->check = ~fold_sum(sum_words((void *)ip, sizeof(*ip) / 4));
	rst->check = tcp_checksum(rst, sum_words(&ip->saddr, 2));
	__builtin_memcpy(ip + 1, rst, sizeof(*rst));
	return true;
}

step bool write_rst_ipv6(struct xdp_md *ctx, u32 l3, struct tcphdr *rst)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + (l3 & L3_MASK);

	if ((void *)(ip + 1) + sizeof(*rst) > end)
		return false;
	*(__be32 *)ip = bpf_htonl(6u << 28); /* no traffic class, no flow label */
	ip->nexthdr = IPPROTO_TCP;
	ip->payload_len = bpf_htons(sizeof(*rst));
	turn_ipv6(ip);
	rst->check = tcp_checksum(rst, sum_words((void *)&ip->saddr, 8));
	__builtin_memcpy(ip + 1, rst, sizeof(*rst));
	return true;
}

/* Resets the TCP segment at l4 of an IP packet that ends at an offset. Returns an enum reason. */
side_step u32 answer_reset(struct xdp_md *ctx, u32 l3, u32 l4, u32 ip_end, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK), rst;
	u32 length;

	/* First: behind the next check the compiler would leave its own out. */
	if (!sent_to_one(ctx))
		return DROP_NO_BACKEND;
	if ((void *)(tcp + 1) > end)
		return DROP_INTERNAL;
	if (tcp->rst)
		return DROP_NO_BACKEND;
	length = ip_end - l4 - tcp->doff * 4 + tcp->syn + tcp->fin;
	make_rst(&rst, tcp, length);
	if (!(ipv6 ? write_rst_ipv6(ctx, l3, &rst) : write_rst_ipv4(ctx, l3, &rst)))
		return DROP_INTERNAL;
	if (!swap_macs(ctx))
		return DROP_INTERNAL;
	length = l3 + (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(rst);
	if (bpf_xdp_adjust_tail(ctx, (int)length - (int)bpf_xdp_get_buff_len(ctx)))
		return DROP_INTERNAL;
	return TX_RESET;
}
