/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Plain packets: what nearly all are. Ethernet with or without VLAN tags, IPv4 without
 * options or IPv6 without extension headers, TCP or UDP, whole and in the frame's first
 * buffer, and nothing about them that has to be judged. They are parsed by few
 * instructions, for nothing of what may be wrong has to be told apart: whatever is not
 * plain goes through the whole path, from the beginning (parse.h).
 */
#pragma once

#include "parse.h"
#include "screen.h"

enum plain {
	NOT_IP,
	NOT_PLAIN,
	PLAIN,
};

/* In one piece: the compiler would take it apart again. */
step u32 load_ports(const void *transport)
{
	u32 ports = *(const u32 *)transport;

	barrier_var(ports);
	return ports;
}

step bool plain_tcp(struct packet *pkt, const struct tcphdr *tcp, int payload, bool screened)
{
	int header = tcp->doff * 4;
	u8 flags = tcp_flags(tcp);

	if (header < (int)sizeof(*tcp) || header > payload)
		return false;
	if (screened && !valid_flags(flags))
		return false;
	pkt->ports = load_ports(tcp);
	pkt->opener = (flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	pkt->flags = flags;
	return true;
}

step bool plain_udp(struct packet *pkt, const struct udphdr *udp, int payload)
{
	int length = bpf_ntohs(udp->len);

	if (length < (int)sizeof(*udp) || length > payload)
		return false;
	pkt->ports = load_ports(udp);
	return true;
}

/* The transport header, of which as much can be read as TCP has. */
step bool plain_transport(struct packet *pkt, const void *transport, int payload, bool screened)
{
	if (pkt->protocol == IPPROTO_TCP)
		return plain_tcp(pkt, transport, payload, screened);
	return pkt->protocol == IPPROTO_UDP && plain_udp(pkt, transport, payload);
}

/* An IPv4 packet in a frame that has so many bytes from its header on. */
step bool plain_ipv4(struct packet *pkt, const struct iphdr *ip, const void *end, u32 bytes)
{
	bool screened = screening;

	if ((const void *)(ip + 1) + sizeof(struct tcphdr) > end)
		return false;
	pkt->length = bpf_ntohs(ip->tot_len);
	if (*(const u8 *)ip != 0x45 || pkt->length > bytes || ip->ttl <= 1 ||
	    ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
		return false;
	if (screened && screen_ipv4(ip))
		return false;
	pkt->destination = map_ipv4(ip->daddr);
	pkt->addresses = fold_ipv4(ip->saddr, ip->daddr);
	pkt->protocol = ip->protocol;
	pkt->ttl = ip->ttl;
	pkt->tos = ip->tos;
	pkt->l4 = pkt->l3 + sizeof(*ip);
	return plain_transport(pkt, ip + 1, (int)pkt->length - (int)sizeof(*ip), screened);
}

step bool plain_ipv6(struct packet *pkt, const struct ipv6hdr *ip, const void *end, u32 bytes)
{
	bool screened = screening;
	u32 payload;

	if ((const void *)(ip + 1) + sizeof(struct tcphdr) > end)
		return false;
	payload = bpf_ntohs(ip->payload_len);
	pkt->destination = load_ipv6(&ip->daddr);
	pkt->length = sizeof(*ip) + payload;
	if (ip->version != 6 || pkt->length > bytes || ip->hop_limit <= 1 ||
	    is_mapped(&pkt->destination))
		return false;
	if (screened && screen_ipv6(ip))
		return false;
	pkt->ipv6 = true;
	pkt->addresses = fold_ipv6(&ip->saddr, &ip->daddr);
	pkt->protocol = ip->nexthdr;
	pkt->ttl = ip->hop_limit;
	pkt->tos = traffic_class(ip);
	pkt->l4 = pkt->l3 + sizeof(*ip);
	return plain_transport(pkt, ip + 1, payload, screened);
}

step enum plain parse_plain(struct xdp_md *ctx, struct packet *pkt)
{
	__be16 type = parse_ethernet(ctx, pkt);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 bytes = ctx->data_end - ctx->data - pkt->l3;

	pkt->plain = true;
	if (type == bpf_htons(ETH_P_IP))
		return plain_ipv4(pkt, data + pkt->l3, end, bytes) ? PLAIN : NOT_PLAIN;
	if (type == bpf_htons(ETH_P_IPV6))
		return plain_ipv6(pkt, data + pkt->l3, end, bytes) ? PLAIN : NOT_PLAIN;
	return NOT_IP;
}
