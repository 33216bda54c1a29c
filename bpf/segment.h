/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Segment: TCP segments without payload that the balancer writes itself (RFC 9293): in
 * answer to one, or in the place of one.
 */
#pragma once

#include "answer.h"
#include "sum.h"

/* A header, and room for one option. */
struct segment {
	struct tcphdr tcp;
	u32 option;
};

/* The checksum of a segment of some bytes, that has none yet, and the pseudo header before it. */
step u16 segment_checksum(const struct segment *s, u32 length, u64 addresses)
{
	u64 sum = addresses + bpf_htons(IPPROTO_TCP) + bpf_htons(length);

	return ~fold_sum(sum + sum_words((const void *)s, length / 4));
}

/* Writes IPv4 header and segment at the IP header's place, turned round; false if cut off. */
step bool write_answer_segment_ipv4(struct xdp_md *ctx, u32 l3, struct segment *s, u32 length)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + (l3 & L3_MASK);

	if ((void *)(ip + 1) + length > end)
		return false;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + length);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->tos = 0;
	turn_ipv4(ip);
	ip->check = 0;
	ip->check = ~fold_sum(sum_words((void *)ip, sizeof(*ip) / 4));
	s->tcp.check = segment_checksum(s, length, sum_words(&ip->saddr, 2));
	__builtin_memcpy(ip + 1, s, length);
	return true;
}

step bool write_answer_segment_ipv6(struct xdp_md *ctx, u32 l3, struct segment *s, u32 length)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + (l3 & L3_MASK);

	if ((void *)(ip + 1) + length > end)
		return false;
	*(__be32 *)ip = bpf_htonl(6u << 28); /* no traffic class, no flow label */
	ip->nexthdr = IPPROTO_TCP;
	ip->payload_len = bpf_htons(length);
	turn_ipv6(ip);
	s->tcp.check = segment_checksum(s, length, sum_words((void *)&ip->saddr, 8));
	__builtin_memcpy(ip + 1, s, length);
	return true;
}

/* Makes a frame that long. Some drivers do not let one of several buffers be left as it is. */
step bool set_frame_length(struct xdp_md *ctx, u32 length)
{
	int more = (int)length - (int)bpf_xdp_get_buff_len(ctx);

	return !more || !bpf_xdp_adjust_tail(ctx, more);
}

/*
 * Makes a packet the answer to itself: a segment of some bytes, without checksum, and no
 * IP options or extension headers. Returns whether it did.
 */
step bool answer_segment(struct xdp_md *ctx, u32 l3, u32 ipv6, struct segment *s, u32 length)
{
	u32 headers = ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);

	if (!set_frame_length(ctx, l3 + headers + length))
		return false;
	if (!(ipv6 ? write_answer_segment_ipv6(ctx, l3, s, length) :
		     write_answer_segment_ipv4(ctx, l3, s, length)))
		return false;
	return swap_macs(ctx);
}

/*
 * Makes the IP packet at l3, whose frame ends with it, that long. Returns the sum of its
 * addresses, 0 if it cannot be done.
 */
step u64 set_packet_length(struct xdp_md *ctx, u32 l3, u32 length, u32 ipv6)
{
	void *data, *end;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__be16 before;

	if (!set_frame_length(ctx, l3 + length))
		return 0;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ip4 = data + (l3 & L3_MASK);
	ip6 = (void *)ip4;
	if (ipv6) {
		if ((void *)(ip6 + 1) > end)
			return 0;
		ip6->payload_len = bpf_htons(length - sizeof(*ip6));
		return sum_words((void *)&ip6->saddr, 8);
	}
	if ((void *)(ip4 + 1) > end)
		return 0;
	before = ip4->tot_len;
	ip4->tot_len = bpf_htons(length);
	ip4->check = update_checksum(ip4->check, before, ip4->tot_len);
	return sum_words(&ip4->saddr, 2);
}

/*
 * Writes a segment of some bytes, without checksum, at l4 of a packet whose addresses
 * have a sum. Returns false if there is no room.
 */
step bool write_segment(struct xdp_md *ctx, u32 l4, struct segment *s, u32 length, u64 addresses)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *to = data + (l4 & L4_MASK);

	if (to + length > end)
		return false;
	s->tcp.check = segment_checksum(s, length, addresses);
	__builtin_memcpy(to, s, length);
	return true;
}
