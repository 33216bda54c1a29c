/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The segments of splices: what becomes of them, and which are written anew. */
#pragma once

#include "cookie.h"
#include "splice.h"

/*
 * Makes a client's segment the SYN that began its connection, as if the cookie had never
 * been. Of its options the cookie has kept none.
 */
side_step u32 become_syn(struct xdp_md *ctx, u32 l3, u32 l4, u32 isn, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	struct segment s = {};
	u64 addresses;

	if ((void *)(tcp + 1) > end)
		return false;
	s.tcp.source = tcp->source;
	s.tcp.dest = tcp->dest;
	s.tcp.seq = bpf_htonl(isn);
	s.tcp.doff = sizeof(s) / 4;
	s.tcp.syn = 1;
	s.tcp.window = tcp->window;
	s.option = mss_option(SYN_SPLICE_MSS);
	addresses = set_packet_length(ctx, l3, l4 - l3 + sizeof(s), ipv6);
	return addresses && write_segment(ctx, l4, &s, sizeof(s), addresses);
}

/*
 * Makes a backend's SYN-ACK the acknowledgement that opens the window to the client, which
 * has had its SYN-ACK.
 */
side_step u32 become_ack(struct xdp_md *ctx, u32 l3, u32 l4, u32 cookie, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	struct segment s = {};
	u64 addresses;

	if ((void *)(tcp + 1) > end)
		return false;
	s.tcp.source = tcp->source;
	s.tcp.dest = tcp->dest;
	s.tcp.seq = bpf_htonl(cookie + 1);
	s.tcp.ack_seq = tcp->ack_seq;
	s.tcp.doff = sizeof(s.tcp) / 4;
	s.tcp.ack = 1;
	s.tcp.window = tcp->window;
	addresses = set_packet_length(ctx, l3, l4 - l3 + sizeof(s.tcp), ipv6);
	return addresses && write_segment(ctx, l4, &s, sizeof(s.tcp), addresses);
}

/* Answers a backend's SYN-ACK as its client would, which had its own long ago. */
side_step u32 answer_syn_ack(struct xdp_md *ctx, u32 l3, u32 l4, u32 window, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	struct segment s = {};

	if ((void *)(tcp + 1) > end)
		return DROP_INTERNAL;
	s.tcp.source = tcp->dest;
	s.tcp.dest = tcp->source;
	s.tcp.seq = tcp->ack_seq;
	s.tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	s.tcp.doff = sizeof(s.tcp) / 4;
	s.tcp.ack = 1;
	s.tcp.window = window;
	return answer_segment(ctx, l3, ipv6, &s, sizeof(s.tcp)) ? TX_SYN_ACK : DROP_INTERNAL;
}

/* The number at an offset of a TCP header's, in host byte order, after it has grown. */
step bool shift_number(struct xdp_md *ctx, u32 l4, u32 offset, u32 by)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	u32 *number = (void *)tcp + offset, before;

	if ((void *)(tcp + 1) > end)
		return false;
	before = *number;
	*number = bpf_htonl(bpf_ntohl(before) + by);
	tcp->check = adjust_checksum(tcp->check, port_difference(before, *number));
	return true;
}

/* Whether the checksum of the segment at l4, of some bytes, is right. */
step bool is_intact(struct xdp_md *ctx, u32 l4, u32 length, const struct tuple *t)
{
	u32 sum = sum_bytes(ctx, l4, length);
	u64 pseudo = sum_words((const void *)t, 8) + bpf_htons(IPPROTO_TCP) + bpf_htons(length);

	return sum != SUM_FAILED && fold_sum(pseudo + sum) == 0xffff;
}
