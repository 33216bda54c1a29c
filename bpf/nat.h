/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * NAT: addresses and ports of a packet, and how they change (RFC 3022, RFC 2663).
 * Sums change by differences (RFC 1624): what was wrong before is wrong afterwards.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "sum.h"

/* Addresses and ports of a packet; ports as struct packet has them. */
struct tuple {
	struct address source;
	struct address destination;
	u32 ports;
	u32 reserved;
};

step u32 pair_ports(__be16 source, __be16 destination)
{
	return source | (u32)destination << 16;
}

/* Reads the addresses of the IP packet at l3; false if they are cut off. */
step bool load_addresses(struct xdp_md *ctx, u32 l3, bool ipv6, struct tuple *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + l3;

	if (ipv6) {
		struct ipv6hdr *ip6 = ip;

		if ((void *)(ip6 + 1) > end)
			return false;
		t->source = load_ipv6(&ip6->saddr);
		t->destination = load_ipv6(&ip6->daddr);
	} else {
		struct iphdr *ip4 = ip;

		if ((void *)(ip4 + 1) > end)
			return false;
		t->source = map_ipv4(ip4->saddr);
		t->destination = map_ipv4(ip4->daddr);
	}
	return true;
}

/*
 * What a sum grows by when addresses change. What an IPv4 address is mapped with adds
 * nothing: 0xffff is one of the zeroes of these sums.
 */
step u64 address_difference(const struct tuple *from, const struct tuple *to)
{
	const u32 *a = (const void *)from, *b = (const void *)to;
	u64 sum = 0;

	for (int i = 0; i < 8; i++)
		sum += (u64)~a[i] + b[i];
	return sum;
}

step u64 port_difference(u32 from, u32 to)
{
	return (u64)(u32)~from + to;
}

/* A checksum after what it covers has changed by a difference. */
step u16 adjust_checksum(u16 check, u64 difference)
{
	return ~fold_sum((u16)~check + difference);
}

/* The same of UDP, where 0 stands for none (RFC 768). */
step u16 adjust_udp_checksum(u16 check, u64 difference)
{
	u16 adjusted;

	if (!check)
		return 0;
	adjusted = adjust_checksum(check, difference);
	return adjusted ? adjusted : 0xffff;
}

/*
 * Gives the transport header at l4 other ports, with the checksum that goes with them
 * and with a difference of the addresses. Returns false if it is cut off.
 */
side_step u32 translate_transport(struct xdp_md *ctx, u32 l4, u32 protocol, u32 ports,
				  u64 difference)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *head = data + (l4 & L4_MASK);

	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = head;

		if ((void *)(tcp + 1) > end)
			return false;
		difference += port_difference(*(u32 *)&tcp->source, ports);
		*(u32 *)&tcp->source = ports;
		tcp->check = adjust_checksum(tcp->check, difference);
	} else {
		struct udphdr *udp = head;

		if ((void *)(udp + 1) > end)
			return false;
		difference += port_difference(*(u32 *)&udp->source, ports);
		*(u32 *)&udp->source = ports;
		udp->check = adjust_udp_checksum(udp->check, difference);
	}
	return true;
}

/* Gives the IP header at l3 other addresses of its family. */
step bool translate_ip(struct xdp_md *ctx, u32 l3, bool ipv6, const struct tuple *to,
		       u64 difference)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + l3;

	if (ipv6) {
		struct ipv6hdr *ip6 = ip;

		if ((void *)(ip6 + 1) > end)
			return false;
		__builtin_memcpy(&ip6->saddr, &to->source, sizeof(ip6->saddr));
		__builtin_memcpy(&ip6->daddr, &to->destination, sizeof(ip6->daddr));
	} else {
		struct iphdr *ip4 = ip;

		if ((void *)(ip4 + 1) > end)
			return false;
		ip4->saddr = unmap_ipv4(&to->source);
		ip4->daddr = unmap_ipv4(&to->destination);
		ip4->check = adjust_checksum(ip4->check, difference);
	}
	return true;
}
