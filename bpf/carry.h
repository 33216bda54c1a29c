/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Carry: the packet with other addresses and ports, of the same IP version or of the
 * other (RFC 7915), behind a new link header. All that may fail for want of room is
 * tried before the first byte changes.
 */
#pragma once

#include "nat.h"
#include "outer.h"
#include "rewrite.h"

/* How to a host: MAC addresses as an Ethernet header begins, and a tag to put on. */
struct hop {
	u32 mac[3];
	u32 ifindex;
	__be16 vlan;
	u16 mtu; /* 0: to be asked for */
};

/* What of a packet is where, for functions of their own; as struct packet has it. */
struct shape {
	u32 l3, l4, length, quoted, quoted_l4;
	u8 ipv6, protocol, fragment, reserved;
};

step void set_shape(const struct packet *pkt, struct shape *s)
{
	s->l3 = pkt->l3;
	s->l4 = pkt->l4;
	s->length = pkt->length;
	s->quoted = pkt->quoted;
	s->quoted_l4 = pkt->quoted_l4;
	s->ipv6 = pkt->ipv6;
	s->protocol = pkt->protocol;
	s->fragment = pkt->fragment;
}

step u32 link_length(const struct hop *hop)
{
	return sizeof(struct ethhdr) + (hop->vlan ? sizeof(struct vlan_header) : 0);
}

step u32 ip_header(bool ipv6)
{
	return ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
}

/* By how many bytes the packet grows when it is sent from one tuple's version to another's. */
step int growth(const struct packet *pkt, const struct tuple *to)
{
	bool ipv6 = !is_mapped(&to->destination);

	if (ipv6 == pkt->ipv6)
		return 0;
	return (int)ip_header(ipv6) - (int)(pkt->l4 - pkt->l3);
}

/* Writes the link header at the head of the frame, before an IP packet of a version. */
side_step u32 write_link(struct xdp_md *ctx, const struct hop *hop, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct vlan_header *tag = (void *)(eth + 1);
	u32 *mac = data;

	if (!hop || (void *)(tag + 1) > end)
		return false;
	mac[0] = hop->mac[0];
	mac[1] = hop->mac[1];
	mac[2] = hop->mac[2];
	eth->h_proto = ip_type(ipv6);
	if (hop->vlan) {
		eth->h_proto = bpf_htons(ETH_P_8021Q);
		tag->tci = hop->vlan;
		tag->protocol = ip_type(ipv6);
	}
	return true;
}

/*
 * A UDP datagram over IPv4 may have no checksum, over IPv6 it must (RFC 8200, 8.1).
 * Gives it one under its new tuple; false if it cannot.
 */
side_step u32 complete_udp(struct xdp_md *ctx, u32 l4, u32 length, const struct tuple *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + (l4 & L4_MASK);
	u64 pseudo;
	u32 sum;

	if (!to || (void *)(udp + 1) > end)
		return false;
	if (udp->check)
		return true;
	/* What IP carries behind the datagram is none of it. */
	sum = bpf_ntohs(udp->len) > length ? SUM_FAILED : sum_bytes(ctx, l4, bpf_ntohs(udp->len));
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	udp = data + (l4 & L4_MASK);
	if (sum == SUM_FAILED || (void *)(udp + 1) > end)
		return false;
	pseudo = sum_words((const void *)to, 8) + udp->len + bpf_htons(IPPROTO_UDP);
	udp->check = ~fold_sum(pseudo + sum);
	if (!udp->check)
		udp->check = 0xffff;
	return true;
}

/* What a new IP header says besides the addresses. */
struct ip_fields {
	u8 protocol;
	u8 tos;
	u8 ttl;
	u32 payload; /* bytes */
};

/* Writes an IP header at an offset, of the version that the addresses have. */
step bool write_ip(struct xdp_md *ctx, u32 at, const struct ip_fields *f, const struct tuple *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (is_mapped(&to->destination)) {
		struct iphdr *ip = data + at;

		if ((void *)(ip + 1) > end)
			return false;
		*(__be16 *)ip = bpf_htons(0x4500 | f->tos);
		ip->tot_len = bpf_htons(sizeof(*ip) + f->payload);
		ip->id = 0;
		ip->frag_off = IPV4_DONT_FRAGMENT;
		ip->ttl = f->ttl;
		ip->protocol = f->protocol;
		ip->check = 0;
		ip->saddr = unmap_ipv4(&to->source);
		ip->daddr = unmap_ipv4(&to->destination);
		ip->check = ~fold_sum(sum_words((void *)ip, sizeof(*ip) / 4));
	} else {
		struct ipv6hdr *ip = data + at;

		if ((void *)(ip + 1) > end)
			return false;
		*(__be32 *)ip = bpf_htonl(6u << 28 | (u32)f->tos << 20);
		ip->payload_len = bpf_htons(f->payload);
		ip->nexthdr = f->protocol;
		ip->hop_limit = f->ttl;
		__builtin_memcpy(&ip->saddr, &to->source, sizeof(ip->saddr));
		__builtin_memcpy(&ip->daddr, &to->destination, sizeof(ip->daddr));
	}
	return true;
}

/* The packet in the other IP version. */
step enum reason carry_over(struct xdp_md *ctx, const struct packet *pkt, const struct tuple *to,
			    const struct hop *hop)
{
	bool ipv6 = !pkt->ipv6;
	u32 link = link_length(hop), header = ip_header(ipv6);
	struct ip_fields f = {
		.protocol = pkt->protocol,
		.tos = pkt->tos,
		.ttl = pkt->ttl - 1,
		.payload = pkt->l3 + pkt->length - pkt->l4,
	};

	if (pkt->protocol == IPPROTO_UDP && ipv6 && !complete_udp(ctx, pkt->l4, f.payload, to))
		return DROP_UNTRANSLATABLE;
	if (bpf_xdp_adjust_head(ctx, (int)pkt->l4 - (int)(link + header)))
		return DROP_NO_HEADROOM;
	if (!write_ip(ctx, link, &f, to) || !write_link(ctx, hop, ipv6))
		return DROP_INTERNAL;
	return TX_FORWARDED;
}

/*
 * Makes the packet, that has one tuple, one that has another, behind the link header
 * of a hop. Returns TX_FORWARDED or why not.
 */
step enum reason carry(struct xdp_md *ctx, const struct packet *pkt, const struct tuple *from,
		       const struct tuple *to, const struct hop *hop)
{
	u64 difference = address_difference(from, to);
	u32 link = link_length(hop);

	if (!translate_transport(ctx, pkt->l4, pkt->protocol, to->ports, difference))
		return DROP_INTERNAL;
	if (is_mapped(&to->destination) == pkt->ipv6)
		return carry_over(ctx, pkt, to, hop);
	if (!translate_ip(ctx, pkt->l3 & L3_MASK, pkt->ipv6, to, difference) ||
	    !decrement_ttl(ctx, pkt->l3, pkt->ipv6))
		return DROP_INTERNAL;
	if (pkt->l3 != link && bpf_xdp_adjust_head(ctx, (int)pkt->l3 - (int)link))
		return DROP_NO_HEADROOM;
	return write_link(ctx, hop, pkt->ipv6) ? TX_FORWARDED : DROP_INTERNAL;
}

/* The same with a fragment, of the same IP version: a later one has addresses only. */
step enum reason carry_shape(struct xdp_md *ctx, const struct shape *s, const struct tuple *from,
			     const struct tuple *to, const struct hop *hop)
{
	u64 difference = address_difference(from, to);
	u32 link = link_length(hop), l3 = s->l3 & L3_MASK;
	bool ipv6 = s->ipv6;

	if (is_mapped(&to->destination) == ipv6)
		return DROP_UNTRANSLATABLE;
	if (s->fragment != LATER_FRAGMENT &&
	    !translate_transport(ctx, s->l4, s->protocol, to->ports, difference))
		return DROP_INTERNAL;
	if (!translate_ip(ctx, l3, ipv6, to, difference) || !decrement_ttl(ctx, l3, ipv6))
		return DROP_INTERNAL;
	if (l3 != link && bpf_xdp_adjust_head(ctx, (int)l3 - (int)link))
		return DROP_NO_HEADROOM;
	return write_link(ctx, hop, ipv6) ? TX_FORWARDED : DROP_INTERNAL;
}

/* Returns an enum reason. By itself, so that the verifier looks at it once. */
side_step u32 carry_fragment(struct xdp_md *ctx, const struct shape *s, const struct tuple *from,
			     const struct tuple *to, const struct hop *hop)
{
	return s && from && to && hop ? carry_shape(ctx, s, from, to, hop) : DROP_INTERNAL;
}
