/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Screen: packets that no host sends, only somebody who means harm. They are looked
 * for once it is known that a packet is for a VIP; all others are the kernel's.
 */
#pragma once

#include "packet.h"
#include "reasons.h"
#include "types.h"

const volatile bool screening;

/* A combination of flags, with and without PSH, in a set of all there are. */
#define TCP_WITH(flags) (1ULL << (flags) | 1ULL << ((flags) | TCP_PSH))

/* Those that Linux's connection tracking takes for valid (nf_conntrack_proto_tcp.c). */
#define TCP_VALID                                                                        \
	(TCP_WITH(TCP_SYN) | TCP_WITH(TCP_SYN | TCP_URG) | TCP_WITH(TCP_SYN | TCP_ACK) | \
	 TCP_WITH(TCP_RST) | TCP_WITH(TCP_RST | TCP_ACK) | TCP_WITH(TCP_FIN | TCP_ACK) | \
	 TCP_WITH(TCP_FIN | TCP_ACK | TCP_URG) | TCP_WITH(TCP_ACK) | TCP_WITH(TCP_ACK | TCP_URG))

/* Whether an address is of one host: not 0/8, 127/8, 224/4, 240/4 (RFC 1122, 3.2.1.3). */
step bool is_host_ipv4(__be32 addr)
{
	u8 first = bpf_ntohl(addr) >> 24;

	return first && first < 224 && first != 127;
}

/* The same: not ::, ::1, ff00::/8 (RFC 4291), nor a mapped IPv4 address (RFC 4038, 4.2). */
step bool is_host_ipv6(const struct in6_addr *addr)
{
	struct address a = load_ipv6(addr);

	if (a.word[0])
		return addr->s6_addr[0] != 0xff;
	return a.word[1] & ~bpf_cpu_to_be64(1) && (u32)a.word[1] != MAPPED_IPV4;
}

step bool valid_flags(u8 flags)
{
	return TCP_VALID >> (flags & TCP_FLAGS) & 1;
}

/* What follows returns the enum reason to drop a packet for, 0 if there is none. */

step u8 screen_ipv4(const struct iphdr *ip)
{
	if (unlikely(ip->saddr == ip->daddr))
		return DROP_LAND;
	return unlikely(!is_host_ipv4(ip->saddr)) ? DROP_BOGUS_SOURCE : 0;
}

step u8 screen_ipv6(const struct ipv6hdr *ip)
{
	struct address source = load_ipv6(&ip->saddr), destination = load_ipv6(&ip->daddr);

	if (source.word[1] == destination.word[1] && source.word[0] == destination.word[0])
		return DROP_LAND;
	return unlikely(!is_host_ipv6(&ip->saddr)) ? DROP_BOGUS_SOURCE : 0;
}

/* By the addresses of the IP header at l3. */
step u8 screen_addresses(struct xdp_md *ctx, u32 l3, bool ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (l3 & L3_MASK);

	if (ipv6)
		return ip + sizeof(struct ipv6hdr) > end ? 0 : screen_ipv6(ip);
	return ip + sizeof(struct iphdr) > end ? 0 : screen_ipv4(ip);
}

/* By the flags of a TCP header at l4. */
step u8 screen_flags(struct xdp_md *ctx, u32 l4)
{
	u8 *tcp;

	/* The compiler knows that it is in bounds and would leave the mask out; Linux 6.1 does not.
	 */
	barrier_var(l4);
	tcp = (void *)(long)ctx->data + (l4 & L4_MASK);
	if (tcp + sizeof(struct tcphdr) > (u8 *)(long)ctx->data_end)
		return 0;
	return valid_flags(tcp[13]) ? 0 : DROP_TCP_FLAGS;
}

/* By addresses and, if the offset is not 0, by the flags of the TCP header there. */
step u8 screen_both(struct xdp_md *ctx, u32 l3, u32 l4, bool ipv6)
{
	u8 reason = screen_addresses(ctx, l3, ipv6);

	if (unlikely(reason) || !l4)
		return reason;
	return screen_flags(ctx, l4);
}

/* The same, by itself, so that the verifier looks at it once. */
side_step u32 screen_apart(struct xdp_md *ctx, u32 l3, u32 l4, u32 ipv6)
{
	return screen_both(ctx, l3, l4, ipv6);
}

step u8 screen(struct xdp_md *ctx, const struct packet *pkt)
{
	bool flags =
		pkt->protocol == IPPROTO_TCP && !pkt->quoted && pkt->fragment != LATER_FRAGMENT;

	if (pkt->plain || !screening)
		return 0;
	if (pkt->fragment || pkt->quoted)
		return screen_apart(ctx, pkt->l3, flags ? pkt->l4 : 0, pkt->ipv6);
	return screen_both(ctx, pkt->l3, flags ? pkt->l4 : 0, pkt->ipv6);
}
