/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Rewrite: the packet as the backend is to receive it. Whatever stands before
 * the IP header is replaced by a new Ethernet header, the backend's VLAN tag if
 * it has one, and the outer IP header if the mode has one. All that may fail is
 * tried before the first byte changes.
 */
#pragma once

#include "maps.h"
#include "outer.h"
#include "packet.h"
#include "parse.h"

/* Takes one off the TTL or hop limit of the packet at l3, which the caller knows to be more than 1.
 */
step bool decrement_ttl(struct xdp_md *ctx, u32 l3, bool ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (ipv6) {
		struct ipv6hdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return false;
		ip->hop_limit--;
	} else {
		struct iphdr *ip = data + l3;

		if ((void *)(ip + 1) > end)
			return false;
		ip->ttl--;
		ip->check = checksum_of_less(ip->check);
	}
	return true;
}

step void write_ethernet(struct ethhdr *eth, const struct backend *backend, __be16 type)
{
	__be16 *type_of = (void *)eth + offsetof(struct ethhdr, h_proto);

	/* In words: the compiler takes an Ethernet header for unaligned and copies bytes. */
	*(u64 *)eth = *(const u64 *)backend->mac;
	*(u32 *)((void *)eth + 8) = *(const u32 *)(backend->mac + 8);
	if (backend->vlan) {
		struct vlan_header *tag = (void *)(eth + 1);

		*type_of = bpf_htons(ETH_P_8021Q);
		tag->tci = backend->vlan;
		tag->protocol = type;
	} else {
		*type_of = type;
	}
}

step __be16 ip_type(bool ipv6)
{
	return ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
}

/* Writes link and outer headers at the head of the frame; the caller has made room. */
step bool write_headers(struct xdp_md *ctx, const struct packet *pkt, const struct backend *backend,
			u8 mode, u32 link, u32 inner)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + link;

	/* What follows the link header is at least an IPv4 header, of the packet or outside. */
	if (ip + sizeof(struct iphdr) > end)
		return false;
	if (mode == MODE_DSR_L2) {
		write_ethernet(data, backend, ip_type(pkt->ipv6));
		return true;
	}
	write_ethernet(data, backend, ip_type(!backend->outer_ipv4));
	/* Two copies of the same: what GUE needs costs IP alone nothing. */
	if (mode == MODE_DSR_IPIP)
		return write_outer(ip, end, pkt, backend, false, inner);
	return write_outer(ip, end, pkt, backend, true, inner);
}

/* Turns the packet into what the backend receives. Returns TX_FORWARDED or why not. */
step enum reason rewrite(struct xdp_md *ctx, const struct packet *pkt,
			 const struct backend *backend, const struct route *route)
{
	u32 outer, link, inner = 0;

	if (!(backend->modes & 1 << (route->mode & 7)))
		return rarely(DROP_UNRESOLVED);
	if (!pkt->plain && pkt->ttl <= 1)
		return rarely(DROP_TTL_EXCEEDED);
	outer = outer_length(backend, route->mode);
	if (pkt->length + outer > backend->mtu)
		return rarely(DROP_TOO_BIG);
	if (!decrement_ttl(ctx, pkt->l3, pkt->ipv6))
		return rarely(DROP_INTERNAL);
	if (gue_checksum && route->mode == MODE_DSR_GUE)
		inner = sum_bytes(ctx, pkt->l3, pkt->length);
	link = sizeof(struct ethhdr) + (backend->vlan ? sizeof(struct vlan_header) : 0);
	if (pkt->l3 != link + outer && bpf_xdp_adjust_head(ctx, (int)pkt->l3 - (int)(link + outer)))
		return rarely(DROP_NO_HEADROOM);
	if (!write_headers(ctx, pkt, backend, route->mode, link, inner))
		return rarely(DROP_INTERNAL);
	return TX_FORWARDED;
}
