/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rewrite: the packet as the backend is to receive it. Whatever stands before
 * the IP header is replaced by a new Ethernet header, the backend's VLAN tag if
 * it has one, and the outer IP header if the mode has one. All that may fail is
 * tried before the first byte changes.
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "parse.h"

#define OUTER_TTL 64
#define IPV4_DONT_FRAGMENT bpf_htons(0x4000)

/* Takes one off TTL or hop limit, which the caller knows to be more than 1. */
step bool decrement_ttl(struct xdp_md *ctx, const struct packet *pkt)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (pkt->ipv6) {
		struct ipv6hdr *ip = data + pkt->l3;

		if ((void *)(ip + 1) > end)
			return false;
		ip->hop_limit--;
	} else {
		struct iphdr *ip = data + pkt->l3;

		if ((void *)(ip + 1) > end)
			return false;
		ip->ttl--;
		ip->check = fold_checksum(ip->check + bpf_htons(0x0100));
	}
	return true;
}

step void write_ethernet(struct ethhdr *eth, const struct backend *backend, __be16 type)
{
	/* In two words: the compiler takes an Ethernet header for unaligned and copies bytes. */
	*(u64 *)eth = *(const u64 *)backend->mac;
	*(u32 *)((void *)eth + 8) = *(const u32 *)(backend->mac + 8);
	if (backend->vlan) {
		struct vlan_header *tag = (void *)(eth + 1);

		eth->h_proto = bpf_htons(ETH_P_8021Q);
		tag->tci = backend->vlan;
		tag->protocol = type;
	} else {
		eth->h_proto = type;
	}
}

/*
 * IPv4 outside (RFC 2003, RFC 4213). The packet is atomic (RFC 6864): DF set, ID 0,
 * for whoever decapsulates need not reassemble. ECN goes outside as well (RFC 6040).
 */
step void write_outer_ipv4(struct iphdr *ip, const struct packet *pkt,
			   const struct backend *backend)
{
	u8 protocol = pkt->ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	__be16 length = bpf_htons(sizeof(*ip) + pkt->length);

	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = pkt->tos;
	ip->tot_len = length;
	ip->id = 0;
	ip->frag_off = IPV4_DONT_FRAGMENT;
	ip->ttl = OUTER_TTL;
	ip->protocol = protocol;
	ip->check = ~fold_checksum(backend->outer_checksum + length + bpf_htons(pkt->tos) +
				   bpf_htons(protocol));
	ip->saddr = unmap_ipv4(&backend->outer_source);
	ip->daddr = unmap_ipv4(&backend->outer_destination);
}

/* IPv6 outside (RFC 2473). */
step void write_outer_ipv6(struct ipv6hdr *ip, const struct packet *pkt,
			   const struct backend *backend)
{
	ip->version = 6;
	ip->priority = pkt->tos >> 4;
	ip->flow_lbl[0] = pkt->tos << 4;
	ip->flow_lbl[1] = 0;
	ip->flow_lbl[2] = 0;
	ip->payload_len = bpf_htons(pkt->length);
	ip->nexthdr = pkt->ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &backend->outer_source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &backend->outer_destination, sizeof(ip->daddr));
}

step u32 outer_length(const struct backend *backend, u8 mode)
{
	if (mode != MODE_DSR_IPIP)
		return 0;
	return backend->outer_ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

step __be16 ip_type(bool ipv6)
{
	return ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

/* Writes link and outer headers at the head of the frame; the caller has made room. */
step bool write_headers(struct xdp_md *ctx, const struct packet *pkt, const struct backend *backend,
			u32 outer)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + sizeof(struct ethhdr);

	if (backend->vlan)
		ip += sizeof(struct vlan_header);
	/* What follows the link header is at least an IPv4 header, of the packet or outside. */
	if (ip + sizeof(struct iphdr) > end)
		return false;
	if (!outer) {
		write_ethernet(data, backend, ip_type(pkt->ipv6));
	} else if (backend->outer_ipv4) {
		write_ethernet(data, backend, ip_type(false));
		write_outer_ipv4(ip, pkt, backend);
	} else {
		if (ip + sizeof(struct ipv6hdr) > end)
			return false;
		write_ethernet(data, backend, ip_type(true));
		write_outer_ipv6(ip, pkt, backend);
	}
	return true;
}

/* Turns the packet into what the backend receives. Returns TX_FORWARDED or why not. */
step enum reason rewrite(struct xdp_md *ctx, const struct packet *pkt,
			 const struct backend *backend, u8 mode)
{
	u32 outer, link;

	if (!(backend->modes & 1 << (mode & 7)))
		return DROP_UNRESOLVED;
	if (pkt->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	outer = outer_length(backend, mode);
	if (pkt->length + outer > backend->mtu)
		return DROP_TOO_BIG;
	if (!decrement_ttl(ctx, pkt))
		return DROP_INTERNAL;
	link = sizeof(struct ethhdr) + (backend->vlan ? sizeof(struct vlan_header) : 0);
	if (pkt->l3 != link + outer && bpf_xdp_adjust_head(ctx, (int)pkt->l3 - (int)(link + outer)))
		return DROP_NO_HEADROOM;
	if (!write_headers(ctx, pkt, backend, outer))
		return DROP_INTERNAL;
	return TX_FORWARDED;
}
