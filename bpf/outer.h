/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Outer: the headers that encapsulation puts before a packet: IP alone (dsr-ipip),
 * or IP, UDP and GUE (dsr-gue; draft-ietf-intarea-gue, version 0).
 */
#pragma once

#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "sum.h"

#define OUTER_TTL 64
#define IPV4_DONT_FRAGMENT bpf_htons(0x4000)

/*
 * Host bits of the outer source address that flows are spread over, so that the
 * backend's NIC spreads them over its queues: a mask of its last 16 bits.
 */
const volatile __be16 spread_ipv4, spread_ipv6;

const volatile __be16 gue_port;
const volatile bool gue_checksum; /* not 0 */

struct gue_header {
	struct udphdr udp;
	u8 control; /* version 0, no control message, no optional fields */
	u8 protocol;
	__be16 flags;
};

/* Source ports are dynamic ones (RFC 7605): 14 bits tell flows apart. */
#define GUE_SOURCE_PORT 0xc000

step u32 outer_length(const struct backend *backend, u8 mode)
{
	u32 ip = backend->outer_ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (mode == MODE_DSR_IPIP)
		return ip;
	if (mode == MODE_DSR_GUE)
		return ip + sizeof(struct gue_header);
	return 0;
}

/* What is added to the outer source for a flow, apart from the bits of its source port. */
step __be16 spread(const struct packet *pkt, __be16 mask)
{
	return (u16)(pkt->hash >> 14) & mask;
}

step u8 inner_protocol(const struct packet *pkt)
{
	return pkt->ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

/*
 * IPv4 outside (RFC 2003, RFC 4213). The packet is atomic (RFC 6864): DF set, ID 0,
 * for whoever decapsulates need not reassemble. ECN goes outside as well (RFC 6040).
 */
step void write_outer_ipv4(struct iphdr *ip, const struct packet *pkt,
			   const struct backend *backend, u8 protocol, u32 payload)
{
	__be16 length = bpf_htons(sizeof(*ip) + payload);
	u32 sum = backend->outer_checksum + length + bpf_htons(pkt->tos) + bpf_htons(protocol);

	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = pkt->tos;
	ip->tot_len = length;
	ip->id = 0;
	ip->frag_off = IPV4_DONT_FRAGMENT;
	ip->ttl = OUTER_TTL;
	ip->protocol = protocol;
	ip->saddr = unmap_ipv4(&backend->outer_source);
	ip->daddr = unmap_ipv4(&backend->outer_destination);
	if (spread_ipv4) {
		ip->saddr |= (u32)spread(pkt, spread_ipv4) << 16;
		sum += spread(pkt, spread_ipv4);
	}
	ip->check = ~fold_checksum(sum);
}

/* IPv6 outside (RFC 2473). */
step void write_outer_ipv6(struct ipv6hdr *ip, const struct packet *pkt,
			   const struct backend *backend, u8 protocol, u32 payload)
{
	ip->version = 6;
	ip->priority = pkt->tos >> 4;
	ip->flow_lbl[0] = pkt->tos << 4;
	ip->flow_lbl[1] = 0;
	ip->flow_lbl[2] = 0;
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	ip->hop_limit = OUTER_TTL;
	__builtin_memcpy(&ip->saddr, &backend->outer_source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &backend->outer_destination, sizeof(ip->daddr));
	if (spread_ipv6)
		ip->saddr.s6_addr16[7] |= spread(pkt, spread_ipv6);
}

/* The checksum of UDP and what it carries, whose sum is given (RFC 768). */
step u16 gue_sum(const struct gue_header *gue, const struct backend *backend, __be16 flow,
		 u32 inner)
{
	u64 sum = backend->outer_addresses + flow + bpf_htons(IPPROTO_UDP) + inner;
	u16 check;

	/* The length is part of the pseudo header as well. */
	sum += gue->udp.len + sum_words((const void *)gue, sizeof(*gue) / 4);
	check = ~fold_sum(sum);
	return check ? check : 0xffff;
}

step struct gue_header *gue_at(void *ip, const struct backend *backend)
{
	return ip + (backend->outer_ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

step void write_gue(struct gue_header *gue, const struct packet *pkt, const struct backend *backend,
		    u32 inner)
{
	__be16 flow = spread(pkt, backend->outer_ipv4 ? spread_ipv4 : spread_ipv6);

	gue->udp.source = bpf_htons(GUE_SOURCE_PORT | (pkt->hash & 0x3fff));
	gue->udp.dest = gue_port;
	gue->udp.len = bpf_htons(sizeof(*gue) + pkt->length);
	gue->udp.check = 0;
	gue->control = 0;
	gue->protocol = inner_protocol(pkt);
	gue->flags = 0;
	if (gue_checksum && inner != SUM_FAILED)
		gue->udp.check = gue_sum(gue, backend, flow, inner);
}

/* Writes the outer headers at ip; inner is the sum of the packet, if it is asked for. */
step bool write_outer(void *ip, const void *end, const struct packet *pkt,
		      const struct backend *backend, bool gue, u32 inner)
{
	u32 payload = gue ? sizeof(struct gue_header) + pkt->length : pkt->length;
	u8 protocol = gue ? IPPROTO_UDP : inner_protocol(pkt);
	struct gue_header *head = gue_at(ip, backend);

	if (backend->outer_ipv4) {
		if (ip + sizeof(struct iphdr) > end)
			return false;
		write_outer_ipv4(ip, pkt, backend, protocol, payload);
	} else {
		if (ip + sizeof(struct ipv6hdr) > end)
			return false;
		write_outer_ipv6(ip, pkt, backend, protocol, payload);
	}
	if (!gue)
		return true;
	if ((void *)(head + 1) > end)
		return false;
	write_gue(head, pkt, backend, inner);
	return true;
}
