/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Quoted: ICMP and ICMPv6 errors about a packet that a backend sent to a client.
 * What they quote of it, turned round, is the flow whose backend the error is for
 * (RFC 792, RFC 4443). No more of its transport header is needed than the ports.
 */
#pragma once

#include "parse.h"

/* The flow, as its client's packets show it. */
struct quoted {
	struct address vip;
	u64 addresses;
	u32 ports;
	u32 protocol;
	u32 l4; /* offset of what is quoted of the transport header */
	u32 reserved;
};

/* The offset of the ports that follow an IPv4 header, 0 if it tells none. */
step u32 parse_quoted_ipv4(struct xdp_md *ctx, u32 at, struct quoted *q)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = data + at;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return 0;
	q->vip = map_ipv4(ip->saddr);
	q->addresses = fold_ipv4(ip->daddr, ip->saddr);
	q->protocol = ip->protocol;
	return ip->frag_off & IPV4_FRAGMENT_OFFSET ? 0 : at + ip->ihl * 4;
}

step u32 parse_quoted_ipv6(struct xdp_md *ctx, u32 at, struct quoted *q)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + at;
	u64 found;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return 0;
	q->vip = load_ipv6(&ip->saddr);
	q->addresses = fold_ipv6(&ip->daddr, &ip->saddr);
	q->protocol = ip->nexthdr;
	at += sizeof(*ip);
	if (!is_extension_header(ip->nexthdr))
		return at;
	found = skip_extension_headers(ctx, at, ip->nexthdr);
	q->protocol = found >> 16 & 0xff;
	return (found >> 24 & 0xff & ~IN_FIRST_FRAGMENT) == PARSED_FLOW ? found & 0xffff : 0;
}

/*
 * Reads what an error quotes at an offset. Returns PARSED_FLOW if that tells a flow,
 * PARSED_OTHER if its protocol is none that we serve, else PARSED_MALFORMED.
 */
side_step u32 parse_quoted(struct xdp_md *ctx, u32 at, u32 ipv6, struct quoted *q)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 *ports;

	if (!q)
		return PARSED_MALFORMED;
	at &= L4_MASK;
	at = ipv6 ? parse_quoted_ipv6(ctx, at, q) : parse_quoted_ipv4(ctx, at, q);
	if (q->protocol && q->protocol != IPPROTO_TCP && q->protocol != IPPROTO_UDP)
		return PARSED_OTHER;
	ports = data + (at & L4_MASK);
	if (!at || (void *)(ports + 2) > end)
		return PARSED_MALFORMED;
	q->ports = (u32)ports[0] << 16 | ports[1];
	q->l4 = at;
	return q->protocol ? PARSED_FLOW : PARSED_MALFORMED;
}

/*
 * Makes an ICMP error a packet of the flow that it is about. Returns TX_FORWARDED, or
 * what becomes of one that tells none.
 */
step enum reason follow_quoted(struct xdp_md *ctx, struct packet *pkt)
{
	struct quoted q = {};
	enum parsed parsed;

	pkt->quoted = pkt->l4 + sizeof(struct icmp_header);
	parsed = parse_quoted(ctx, pkt->quoted, pkt->ipv6, &q);
	/* The sender of the quoted packet is who must hear of it. */
	if (q.vip.word[0] != pkt->destination.word[0] || q.vip.word[1] != pkt->destination.word[1])
		return DROP_ICMP_ERROR;
	if (parsed != PARSED_FLOW)
		return parsed == PARSED_OTHER ? PASS_NOT_VIP : DROP_ICMP_ERROR;
	/* What stands behind the packet in the frame is none of its quote. */
	if (q.l4 + sizeof(u32) > pkt->l3 + pkt->length)
		return DROP_ICMP_ERROR;
	pkt->addresses = q.addresses;
	pkt->ports = q.ports;
	pkt->protocol = q.protocol;
	pkt->quoted_l4 = q.l4;
	return TX_FORWARDED;
}
