/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parse: Ethernet, up to two VLAN tags, IPv4 or IPv6 with extension headers,
 * then TCP, UDP or an ICMP echo request.
 *
 * Each parser checks its bounds, fills in what it learnt and returns what it
 * found. A packet that is out of shape is still judged by its address: only one
 * that is for a VIP is dropped, all others are the kernel's.
 */
#pragma once

#include "hash.h"
#include "packet.h"
#include "reasons.h"

enum parsed {
	PARSED_FLOW, /* TCP or UDP, complete */
	PARSED_LATER_FRAGMENT,
	PARSED_ICMP_ERROR,
	PARSED_ECHO,  /* ICMP or ICMPv6 echo request */
	PARSED_OTHER, /* a protocol that we do not serve */
	PARSED_NOT_IP,
	PARSED_TRUNCATED,
	PARSED_MALFORMED,
	PARSED_EXTENSION_HEADERS,
};

/* Beside an enum parsed: in the first fragment of a packet. */
#define IN_FIRST_FRAGMENT 0x80

#define VLAN_TAGS 2
#define EXTENSION_HEADERS 8

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

/* ICMP and ICMPv6 alike (RFC 792, RFC 4443). */
struct icmp_header {
	u8 type;
	u8 code;
	u16 checksum;
	u32 rest;
};

/* The head that IPv6 extension headers share (RFC 8200, section 4), and the fragment header. */
struct extension_header {
	u8 next;
	u8 length;
	__be16 fragment_offset;
	u32 fragment_id;
};

/* In one piece: the compiler takes an Ethernet header for unaligned and copies bytes. */
step __be16 ether_type(const struct ethhdr *eth)
{
	return *(const __be16 *)((const void *)eth + offsetof(struct ethhdr, h_proto));
}

step bool is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

step bool is_extension_header(u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH;
}

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4 /* code */
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12

#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TOO_BIG 2
#define ICMPV6_TIME_EXCEEDED 3
#define ICMPV6_PARAMETER 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

#define IPV4_MORE_FRAGMENTS bpf_htons(0x2000)
#define IPV4_FRAGMENT_OFFSET bpf_htons(0x1fff)
#define IPV6_FRAGMENT_OFFSET bpf_htons(0xfff8)
#define IPV6_MORE_FRAGMENTS bpf_htons(1)

/*
 * Follows VLAN tags from the ethertype at offset 12. Returns the offset of what
 * comes behind them with its ethertype in the upper half, 0 if cut off.
 */
side_step u32 skip_vlan_tags(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	u32 at = sizeof(*eth);
	__be16 type;

	if ((void *)(eth + 1) > end)
		return 0;
	type = ether_type(eth);
	for (int i = 0; i < VLAN_TAGS && is_vlan(type); i++) {
		struct vlan_header *tag = data + at;

		if ((void *)(tag + 1) > end)
			return 0;
		type = tag->protocol;
		at += sizeof(*tag);
	}
	return (u32)type << 16 | at;
}

/* Sets pkt->l3 and returns the ethertype of what stands there, 0 if cut off. */
step __be16 parse_ethernet(struct xdp_md *ctx, struct packet *pkt)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	u32 found;

	if ((void *)(eth + 1) > end)
		return 0;
	pkt->l3 = sizeof(*eth);
	if (!is_vlan(ether_type(eth)))
		return ether_type(eth);
	found = skip_vlan_tags(ctx);
	pkt->l3 = found & L3_MASK;
	return found >> 16;
}

/* Whether the IP packet is all there; the frame may go on in further buffers. */
step bool complete(struct xdp_md *ctx, const struct packet *pkt)
{
	u32 needed = pkt->l3 + pkt->length;

	return needed <= ctx->data_end - ctx->data || needed <= bpf_xdp_get_buff_len(ctx);
}

step enum parsed parse_ipv4(struct xdp_md *ctx, struct packet *pkt)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + pkt->l3;
	u32 header;

	if ((void *)(ip + 1) > end) {
		pkt->l3 = 0;
		return PARSED_TRUNCATED;
	}
	pkt->destination = map_ipv4(ip->daddr);
	pkt->addresses = fold_ipv4(ip->saddr, ip->daddr);
	pkt->length = bpf_ntohs(ip->tot_len);
	pkt->protocol = ip->protocol;
	pkt->ttl = ip->ttl;
	pkt->tos = ip->tos;
	header = ip->ihl * 4;
	pkt->l4 = pkt->l3 + header;
	if (ip->version != 4 || header < sizeof(*ip) || pkt->length < header)
		return PARSED_MALFORMED;
	if (!complete(ctx, pkt))
		return PARSED_TRUNCATED;
	if (!(ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)))
		return PARSED_FLOW;
	pkt->fragment_id = ip->id;
	if (ip->frag_off & IPV4_FRAGMENT_OFFSET) {
		pkt->fragment = LATER_FRAGMENT;
		return PARSED_LATER_FRAGMENT;
	}
	pkt->fragment = FIRST_FRAGMENT;
	return PARSED_FLOW;
}

/*
 * Follows extension headers from an offset. Returns the offset of the transport
 * header, its protocol in bits 16 to 23, in bits 24 to 31 an enum parsed with or
 * without IN_FIRST_FRAGMENT, and above the ID of a fragment.
 */
side_step u64 skip_extension_headers(struct xdp_md *ctx, u32 at, u32 protocol)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u64 found = (u64)PARSED_FLOW << 24;

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		struct extension_header *ext;

		if (!is_extension_header(protocol))
			return found | protocol << 16 | at;
		at &= L4_MASK;
		ext = data + at;
		if ((void *)(ext + 1) > end)
			return PARSED_TRUNCATED << 24;
		if (protocol == IPPROTO_FRAGMENT) {
			found |= (u64)ext->fragment_id << 32;
			if (ext->fragment_offset & IPV6_FRAGMENT_OFFSET)
				return found | PARSED_LATER_FRAGMENT << 24 | (u32)ext->next << 16 |
				       at;
			if (ext->fragment_offset & IPV6_MORE_FRAGMENTS)
				found |= (u32)IN_FIRST_FRAGMENT << 24;
			at += sizeof(*ext);
		} else if (protocol == IPPROTO_AH) {
			at += (ext->length + 2) * 4;
		} else {
			at += (ext->length + 1) * 8;
		}
		protocol = ext->next;
	}
	if (is_extension_header(protocol))
		return PARSED_EXTENSION_HEADERS << 24;
	return found | protocol << 16 | at;
}

step u8 traffic_class(const struct ipv6hdr *ip)
{
	return bpf_ntohs(*(const __be16 *)ip) >> 4;
}

step enum parsed parse_ipv6(struct xdp_md *ctx, struct packet *pkt)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + pkt->l3;
	enum parsed parsed;
	u64 found;

	if ((void *)(ip + 1) > end) {
		pkt->l3 = 0;
		return PARSED_TRUNCATED;
	}
	pkt->ipv6 = true;
	pkt->destination = load_ipv6(&ip->daddr);
	pkt->addresses = fold_ipv6(&ip->saddr, &ip->daddr);
	pkt->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	pkt->protocol = ip->nexthdr;
	pkt->ttl = ip->hop_limit;
	pkt->tos = traffic_class(ip);
	pkt->l4 = pkt->l3 + sizeof(*ip);
	/* A mapped address on the wire is not the IPv4 address (RFC 4038, 4.2). */
	if (is_mapped(&pkt->destination))
		return PARSED_OTHER;
	if (ip->version != 6)
		return PARSED_MALFORMED;
	if (!complete(ctx, pkt))
		return PARSED_TRUNCATED;
	if (!is_extension_header(pkt->protocol))
		return PARSED_FLOW;
	found = skip_extension_headers(ctx, pkt->l4, pkt->protocol);
	pkt->protocol = found >> 16;
	pkt->l4 = found & 0xffff;
	parsed = found >> 24 & 0xff & ~IN_FIRST_FRAGMENT;
	if (parsed != PARSED_LATER_FRAGMENT && !(found >> 24 & IN_FIRST_FRAGMENT))
		return parsed;
	/* What stands behind the packet in the frame is none of its headers. */
	if (parsed == PARSED_LATER_FRAGMENT &&
	    pkt->l4 + sizeof(struct extension_header) > pkt->l3 + pkt->length)
		return PARSED_MALFORMED;
	pkt->fragment_id = found >> 32;
	pkt->fragment = parsed == PARSED_LATER_FRAGMENT ? LATER_FRAGMENT : FIRST_FRAGMENT;
	return parsed;
}

step u8 tcp_flags(const struct tcphdr *tcp)
{
	return ((const u8 *)tcp)[13];
}

step enum parsed parse_tcp(struct packet *pkt, struct tcphdr *tcp, void *end, u32 payload)
{
	if (payload < sizeof(*tcp))
		return PARSED_MALFORMED;
	if ((void *)(tcp + 1) > end)
		return PARSED_TRUNCATED;
	if (tcp->doff * 4 < sizeof(*tcp) || tcp->doff * 4 > payload)
		return PARSED_MALFORMED;
	pkt->ports = *(u32 *)&tcp->source;
	pkt->opener = tcp->syn && !tcp->ack;
	pkt->flags = tcp_flags(tcp);
	return PARSED_FLOW;
}

step enum parsed parse_udp(struct packet *pkt, struct udphdr *udp, void *end, u32 payload)
{
	u32 length;

	if (payload < sizeof(*udp))
		return PARSED_MALFORMED;
	if ((void *)(udp + 1) > end)
		return PARSED_TRUNCATED;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || (length > payload && !pkt->fragment))
		return PARSED_MALFORMED;
	pkt->ports = *(u32 *)&udp->source;
	return PARSED_FLOW;
}

step enum parsed judge_icmp(u8 type)
{
	if (type == ICMP_ECHO_REQUEST)
		return PARSED_ECHO;
	if (type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER)
		return PARSED_ICMP_ERROR;
	return PARSED_OTHER;
}

step enum parsed judge_icmpv6(u8 type)
{
	if (type == ICMPV6_ECHO_REQUEST)
		return PARSED_ECHO;
	if (type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER)
		return PARSED_ICMP_ERROR;
	return PARSED_OTHER;
}

step enum parsed parse_icmp(struct icmp_header *icmp, bool ipv6, void *end, u32 payload)
{
	if (payload < sizeof(*icmp))
		return PARSED_MALFORMED;
	if ((void *)(icmp + 1) > end)
		return PARSED_TRUNCATED;
	return ipv6 ? judge_icmpv6(icmp->type) : judge_icmp(icmp->type);
}

step enum parsed parse_transport(struct xdp_md *ctx, struct packet *pkt)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *transport = data + (pkt->l4 & L4_MASK);
	u32 payload = pkt->l3 + pkt->length - pkt->l4;

	if (pkt->l4 > pkt->l3 + pkt->length || pkt->l4 > L4_MASK)
		return PARSED_MALFORMED;
	if (pkt->protocol == IPPROTO_TCP)
		return parse_tcp(pkt, transport, end, payload);
	if (pkt->protocol == IPPROTO_UDP)
		return parse_udp(pkt, transport, end, payload);
	if (pkt->protocol == IPPROTO_ICMP && !pkt->ipv6)
		return parse_icmp(transport, false, end, payload);
	if (pkt->protocol == IPPROTO_ICMPV6 && pkt->ipv6)
		return parse_icmp(transport, true, end, payload);
	return PARSED_OTHER;
}

step enum parsed parse(struct xdp_md *ctx, struct packet *pkt)
{
	__be16 type = parse_ethernet(ctx, pkt);
	enum parsed parsed;

	if (type == bpf_htons(ETH_P_IP))
		parsed = parse_ipv4(ctx, pkt);
	else if (type == bpf_htons(ETH_P_IPV6))
		parsed = parse_ipv6(ctx, pkt);
	else
		return PARSED_NOT_IP;
	return parsed == PARSED_FLOW ? parse_transport(ctx, pkt) : parsed;
}
