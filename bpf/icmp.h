/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP: what the balancer tells a client whose packet it cannot send on: that it is
 * too big, or that its TTL is used up (RFC 792, RFC 1191, RFC 4443). The answer
 * comes from the VIP, and each CPU gives so many a second.
 */
#pragma once

#include "answer.h"
#include "maps.h"
#include "parse.h"
#include "screen.h"
#include "sum.h"

const volatile u64 icmp_cost; /* ns of a CPU's time that an answer uses up; 0: there are none */

#define ALLOWANCE 1000000000ULL /* at most as many answers at once as in a second */

/* An answer quotes as much as does not make it longer than every host takes. */
#define QUOTE_IPV4 (576 - sizeof(struct iphdr) - sizeof(struct icmp_header))
#define QUOTE_IPV6 (IPV6_MIN_MTU - sizeof(struct ipv6hdr) - sizeof(struct icmp_header))
#define IPV6_MIN_MTU 1280

/* Internetwork control (RFC 1812, section 4.3.2.5). */
#define ICMP_TOS 0xc0

/* The parts of answer_icmp's question: what is told, and the MTU. */
enum trouble {
	TROUBLE_TOO_BIG,
	TROUBLE_TTL_EXCEEDED,
};

step bool allowed(void)
{
	u64 now = bpf_ktime_get_coarse_ns();
	struct allowance *a;
	u32 zero = 0;

	a = bpf_map_lookup_elem(&allowances, &zero);
	if (!a)
		return false;
	a->credit += now - a->last;
	a->last = now;
	if (a->credit > ALLOWANCE)
		a->credit = ALLOWANCE;
	if (a->credit < icmp_cost)
		return false;
	a->credit -= icmp_cost;
	return true;
}

/* Moves the link header to the head of a frame that has grown by some bytes, turned round. */
step bool move_link(struct xdp_md *ctx, u32 grown)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	/* Its longest form; what is too much is written over. */
	if (data + grown + 24 > end)
		return false;
	__builtin_memcpy(data, data + grown, 24);
	return swap_macs(ctx);
}

step void write_icmp(struct icmp_header *icmp, u8 type, u8 code, u32 rest, u64 sum)
{
	icmp->type = type;
	icmp->code = code;
	icmp->checksum = 0;
	icmp->rest = rest;
	icmp->checksum = ~fold_sum(sum + *(u32 *)icmp + rest);
}

/* Writes the headers of an answer that quotes an IPv4 packet; its link header is done. */
step bool write_answer_ipv4(struct xdp_md *ctx, u32 l3, enum trouble trouble, u32 mtu, u32 quote,
			    u32 sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + (l3 & L3_MASK), *quoted;
	struct icmp_header *icmp = (void *)(ip + 1);

	quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return false;
	*(__be16 *)ip = bpf_htons(0x4500 | ICMP_TOS);
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quote);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = ANSWER_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->check = 0;
	ip->saddr = quoted->daddr;
	ip->daddr = quoted->saddr;
	ip->check = ~fold_sum(sum_words((void *)ip, sizeof(*ip) / 4));
	if (trouble == TROUBLE_TOO_BIG)
		write_icmp(icmp, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, bpf_htonl(mtu), sum);
	else
		write_icmp(icmp, ICMP_TIME_EXCEEDED, 0, 0, sum);
	return true;
}

step bool write_answer_ipv6(struct xdp_md *ctx, u32 l3, enum trouble trouble, u32 mtu, u32 quote,
			    u64 sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + (l3 & L3_MASK), *quoted;
	struct icmp_header *icmp = (void *)(ip + 1);
	u32 length = sizeof(*icmp) + quote;

	quoted = (void *)(icmp + 1);
	if ((void *)(quoted + 1) > end)
		return false;
	*(__be32 *)ip = bpf_htonl(6u << 28 | ICMP_TOS << 20);
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = ANSWER_TTL;
	ip->saddr = quoted->daddr;
	ip->daddr = quoted->saddr;
	sum += sum_words((void *)&ip->saddr, 8) + bpf_htonl(length) + bpf_htonl(IPPROTO_ICMPV6);
	if (trouble == TROUBLE_TOO_BIG)
		write_icmp(icmp, ICMPV6_TOO_BIG, 0,
			   bpf_htonl(mtu < IPV6_MIN_MTU ? IPV6_MIN_MTU : mtu), sum);
	else
		write_icmp(icmp, ICMPV6_TIME_EXCEEDED, 0, 0, sum);
	return true;
}

/* Whether the packet at l3 is from one host, and to one, so that an answer may go back. */
step bool answerable(struct xdp_md *ctx, u32 l3, bool ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (l3 & L3_MASK);

	if (!sent_to_one(ctx))
		return false;
	if (ip + sizeof(struct ipv6hdr) > end)
		return !ipv6 && ip + sizeof(struct iphdr) <= end &&
		       is_host_ipv4(((struct iphdr *)ip)->saddr);
	return ipv6 ? is_host_ipv6(&((struct ipv6hdr *)ip)->saddr) :
		      is_host_ipv4(((struct iphdr *)ip)->saddr);
}

/*
 * Makes a packet of some bytes from l3 on the answer that tells its sender of
 * trouble. Returns whether it did; if not, the packet may be spoilt.
 */
side_step u32 answer_icmp(struct xdp_md *ctx, u32 l3, u32 length, u32 trouble_and_mtu, u32 ipv6)
{
	u32 headers = ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	u32 quote = ipv6 ? QUOTE_IPV6 : QUOTE_IPV4, rest, sum;
	enum trouble trouble = trouble_and_mtu >> 16;
	u32 mtu = trouble_and_mtu & 0xffff;

	headers += sizeof(struct icmp_header);
	quote = length < quote ? length : quote;
	if (!icmp_cost || !answerable(ctx, l3, ipv6) || !allowed())
		return false;
	sum = sum_bytes(ctx, l3, quote);
	if (sum == SUM_FAILED)
		return false;
	rest = bpf_xdp_get_buff_len(ctx) - (l3 + quote);
	/* Some drivers do not let a frame of several buffers be left as long as it is. */
	if (rest && bpf_xdp_adjust_tail(ctx, -(int)rest))
		return false;
	if (bpf_xdp_adjust_head(ctx, -(int)headers) || !move_link(ctx, headers))
		return false;
	return ipv6 ? write_answer_ipv6(ctx, l3, trouble, mtu, quote, sum) :
		      write_answer_ipv4(ctx, l3, trouble, mtu, quote, sum);
}

/* Tells the sender of a packet that goes no further why, unless that is no use or too much. */
step enum reason tell(struct xdp_md *ctx, const struct packet *pkt, enum reason reason, u32 mtu)
{
	if (pkt->quoted || pkt->fragment == LATER_FRAGMENT)
		return reason;
	if (reason == DROP_TOO_BIG &&
	    answer_icmp(ctx, pkt->l3, pkt->length, TROUBLE_TOO_BIG << 16 | mtu, pkt->ipv6))
		return TX_TOO_BIG;
	if (reason == DROP_TTL_EXCEEDED &&
	    answer_icmp(ctx, pkt->l3, pkt->length, TROUBLE_TTL_EXCEEDED << 16, pkt->ipv6))
		return TX_TTL_EXCEEDED;
	return reason;
}
