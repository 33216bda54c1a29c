/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reset: a TCP RST in answer to a segment, as a closed port gives it
 * (RFC 9293, section 3.10.7.1). IP options, extension headers and payload go.
 */
#pragma once

#include "segment.h"

/* The segment that resets, of zeroes, in the terms of the one that it answers. */
step void make_rst(struct tcphdr *rst, const struct tcphdr *tcp, u32 segment_length)
{
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

/* Resets the TCP segment at l4 of an IP packet that ends at an offset. Returns an enum reason. */
side_step u32 answer_reset(struct xdp_md *ctx, u32 l3, u32 l4, u32 ip_end, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	struct segment rst = {};

	/* First: behind the next check the compiler would leave its own out. */
	if (!sent_to_one(ctx))
		return DROP_NO_BACKEND;
	if ((void *)(tcp + 1) > end)
		return DROP_INTERNAL;
	if (tcp->rst)
		return DROP_NO_BACKEND;
	make_rst(&rst.tcp, tcp, ip_end - l4 - tcp->doff * 4 + tcp->syn + tcp->fin);
	return answer_segment(ctx, l3, ipv6, &rst, sizeof(rst.tcp)) ? TX_RESET : DROP_INTERNAL;
}
