/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers: packets that the balancer sends back itself, with addresses turned
 * round. Every answer leaves with a TTL of its own.
 */
#pragma once

#include "packet.h"
#include "parse.h"
#include "reasons.h"

#define ANSWER_TTL 64

/*
 * Whether the frame was sent to one host. Others are not answered (RFC 1122, section
 * 3.2.2), nor could they be: no frame comes from a group.
 */
step bool sent_to_one(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	return !(eth->h_dest[0] & 1);
}

step bool swap_macs(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	return true;
}

/* The checksum after one 16-bit word changes (RFC 1624, equation 3). */
step u16 update_checksum(u16 check, u16 from, u16 to)
{
	return ~fold_checksum((u16)~check + (u16)~from + to);
}

step void turn_ipv4(struct iphdr *ip)
{
	__be32 addr = ip->saddr;
	__be16 before = *(__be16 *)&ip->ttl, after;

	ip->saddr = ip->daddr;
	ip->daddr = addr;
	ip->ttl = ANSWER_TTL;
	after = *(__be16 *)&ip->ttl;
	ip->check = update_checksum(ip->check, before, after);
}

step void turn_ipv6(struct ipv6hdr *ip)
{
	struct in6_addr addr = ip->saddr;

	ip->saddr = ip->daddr;
	ip->daddr = addr;
	ip->hop_limit = ANSWER_TTL;
}

/* Turns Ethernet and IP header round. */
step bool turn_round(struct xdp_md *ctx, u32 l3, bool ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (l3 & L3_MASK);

	if (ipv6) {
		if (ip + sizeof(struct ipv6hdr) > end)
			return false;
		turn_ipv6(ip);
	} else {
		if (ip + sizeof(struct iphdr) > end)
			return false;
		turn_ipv4(ip);
	}
	return swap_macs(ctx);
}

/*
 * Makes an echo request its reply: only the type changes (RFC 792, RFC 4443).
 * Returns an enum reason.
 */
side_step u32 answer_echo(struct xdp_md *ctx, u32 l3, u32 l4, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmp_header *icmp = data + (l4 & L4_MASK);
	__be16 before, after;

	if ((void *)(icmp + 1) > end)
		return DROP_INTERNAL;
	if (!sent_to_one(ctx))
		return PASS_NOT_VIP;
	before = *(__be16 *)&icmp->type;
	icmp->type = ipv6 ? ICMPV6_ECHO_REPLY : ICMP_ECHO_REPLY;
	after = *(__be16 *)&icmp->type;
	icmp->checksum = update_checksum(icmp->checksum, before, after);
	/* 0 is wrong for a message of nothing but zeroes, and the other zero right for all. */
	if (!icmp->checksum)
		icmp->checksum = 0xffff;
	return turn_round(ctx, l3, ipv6) ? TX_ECHO_REPLY : DROP_INTERNAL;
}
