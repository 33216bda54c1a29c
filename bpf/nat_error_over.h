/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors in the other IP version: ICMP as ICMPv6 and back (RFC 7915, sections 4.2,
 * 4.3, 5.2 and 5.3), with the header of the packet that they quote. What is behind that
 * header stays where it is; all that is before it is written anew.
 */
#pragma once

#include "carry.h"
#include "nat_path.h"
#include "quoted.h"

step u32 reverse_ports(u32 ports)
{
	return ports >> 16 | ports << 16;
}

step u64 word_difference(u16 from, u16 to)
{
	return (u16)~from + to;
}

/* The protocol of a quoted packet and, above it, how many bytes of its transport header are
 * quoted: what stands behind them in the frame is none of the error's.
 */
step u32 quoted_transport(const struct shape *pkt)
{
	return pkt->protocol | (pkt->l3 + pkt->length - pkt->quoted_l4) << 8;
}

/*
 * Translates the ports of the quoted transport header at an offset, and the checksum
 * where that is quoted. Returns by how much the sum of the quote grows.
 */
side_step u64 translate_quoted_transport(struct xdp_md *ctx, u32 l4, u32 what, u32 ports,
					 u64 difference)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *head = data + (l4 & L4_MASK);
	u32 protocol = what & 0xff, length = what >> 8;
	u64 change;
	u16 before;

	if (head + sizeof(u32) > end)
		return 0;
	change = port_difference(*(u32 *)head, ports);
	*(u32 *)head = ports;
	difference += change;
	if (protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = head;

		if (length < offsetof(struct tcphdr, urg_ptr) || (void *)&tcp->urg_ptr > end)
			return change;
		before = tcp->check;
		tcp->check = adjust_checksum(before, difference);
		return change + word_difference(before, tcp->check);
	}
	if (length < sizeof(struct udphdr) || (void *)((struct udphdr *)head + 1) > end)
		return change;
	before = ((struct udphdr *)head)->check;
	((struct udphdr *)head)->check = adjust_udp_checksum(before, difference);
	return change + word_difference(before, ((struct udphdr *)head)->check);
}

#define ICMP_HOST_UNREACHABLE 1
#define ICMP_PROTOCOL_UNREACHABLE 2
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_HOST_PROHIBITED 10
#define ICMP_NET_PROHIBITED 9
#define ICMP_PROHIBITED 13
#define ICMP_PRECEDENCE_VIOLATION 14
#define ICMP_PRECEDENCE_CUTOFF 15
#define ICMP_WRONG_FIELD 0  /* what a pointer points at */
#define ICMP_WRONG_LENGTH 2 /* the same */

#define ICMPV6_PROHIBITED 1
#define ICMPV6_PORT_UNREACHABLE 4
#define ICMPV6_WRONG_FIELD 0
#define ICMPV6_UNKNOWN_NEXT_HEADER 1
#define IPV6_NEXT_HEADER_OFFSET 6

#define IPV6_LONGER (sizeof(struct ipv6hdr) - sizeof(struct iphdr))

/* A message without its checksum; type 0 where the other version has none like it. */
struct message {
	u8 type;
	u8 code;
	__be32 rest;
};

#define NO_POINTER (~0u)

/* The byte of an IPv6 header that says what one of an IPv4 header does (figure 3). */
step u32 to_ipv6_pointer(u32 at)
{
	if (at < 2)
		return at;
	if (at < 4)
		return 4;
	if (at == 8)
		return 7;
	if (at == 9)
		return 6;
	if (at < 12 || at >= sizeof(struct iphdr))
		return NO_POINTER;
	return at < 16 ? 8 : 24;
}

/* The inverse (figure 6). */
step u32 to_ipv4_pointer(u32 at)
{
	if (at < 2)
		return at;
	if (at < 4 || at >= sizeof(struct ipv6hdr))
		return NO_POINTER;
	if (at < 6)
		return 2;
	if (at == 6)
		return 9;
	if (at == 7)
		return 8;
	return at < 24 ? 12 : 16;
}

step struct message to_icmpv6_unreachable(u8 code, __be32 rest)
{
	struct message m = { .type = ICMPV6_UNREACHABLE };
	u32 mtu = (bpf_ntohl(rest) & 0xffff) + IPV6_LONGER;

	if (code == ICMP_FRAGMENTATION_NEEDED) {
		m.type = ICMPV6_TOO_BIG;
		m.rest = bpf_htonl(mtu < IPV6_MIN_MTU ? IPV6_MIN_MTU : mtu);
	} else if (code == ICMP_PROTOCOL_UNREACHABLE) {
		m.type = ICMPV6_PARAMETER;
		m.code = ICMPV6_UNKNOWN_NEXT_HEADER;
		m.rest = bpf_htonl(IPV6_NEXT_HEADER_OFFSET);
	} else if (code == ICMP_PORT_UNREACHABLE) {
		m.code = ICMPV6_PORT_UNREACHABLE;
	} else if (code == ICMP_NET_PROHIBITED || code == ICMP_HOST_PROHIBITED ||
		   code == ICMP_PROHIBITED || code == ICMP_PRECEDENCE_CUTOFF) {
		m.code = ICMPV6_PROHIBITED;
	} else if (code >= ICMP_PRECEDENCE_VIOLATION) {
		m.type = 0;
	}
	return m;
}

step struct message to_icmpv6(u8 type, u8 code, __be32 rest)
{
	struct message m = {};
	u32 pointer;

	if (type == ICMP_UNREACHABLE)
		return to_icmpv6_unreachable(code, rest);
	if (type == ICMP_TIME_EXCEEDED) {
		m.type = ICMPV6_TIME_EXCEEDED;
		m.code = code;
		return m;
	}
	pointer = to_ipv6_pointer(bpf_ntohl(rest) >> 24);
	if (pointer == NO_POINTER || (code != ICMP_WRONG_FIELD && code != ICMP_WRONG_LENGTH))
		return m;
	m.type = ICMPV6_PARAMETER;
	m.rest = bpf_htonl(pointer);
	return m;
}

step struct message to_icmp_parameter(u8 code, __be32 rest)
{
	struct message m = {};
	u32 pointer;

	if (code == ICMPV6_UNKNOWN_NEXT_HEADER) {
		m.type = ICMP_UNREACHABLE;
		m.code = ICMP_PROTOCOL_UNREACHABLE;
		return m;
	}
	pointer = to_ipv4_pointer(bpf_ntohl(rest));
	if (pointer == NO_POINTER || code != ICMPV6_WRONG_FIELD)
		return m;
	m.type = ICMP_PARAMETER;
	m.rest = bpf_htonl(pointer << 24);
	return m;
}

step struct message to_icmp(u8 type, u8 code, __be32 rest)
{
	struct message m = { .type = ICMP_UNREACHABLE, .code = ICMP_HOST_UNREACHABLE };
	u32 mtu = bpf_ntohl(rest);

	if (type == ICMPV6_PARAMETER)
		return to_icmp_parameter(code, rest);
	if (type == ICMPV6_TIME_EXCEEDED) {
		m.type = ICMP_TIME_EXCEEDED;
		m.code = code;
	} else if (type == ICMPV6_TOO_BIG) {
		mtu = mtu > 0xffff ? 0xffff : mtu;
		m.code = ICMP_FRAGMENTATION_NEEDED;
		m.rest = bpf_htonl(mtu < IPV6_LONGER ? 0 : mtu - IPV6_LONGER);
	} else if (code == ICMPV6_PORT_UNREACHABLE) {
		m.code = ICMP_PORT_UNREACHABLE;
	} else if (code == ICMPV6_PROHIBITED) {
		m.code = ICMP_HOST_PROHIBITED;
	} else if (code > ICMPV6_PORT_UNREACHABLE) {
		m.type = 0;
	}
	return m;
}

/* What the quoted IP header at an offset says; false if it is cut off. */
step bool read_quoted_ip(struct xdp_md *ctx, const struct shape *pkt, struct ip_fields *f)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *ip = data + (pkt->quoted & L4_MASK);
	u32 behind = pkt->quoted_l4 - pkt->quoted;

	f->protocol = pkt->protocol;
	if (pkt->ipv6) {
		struct ipv6hdr *ip6 = ip;

		if ((void *)(ip6 + 1) > end)
			return false;
		f->tos = ip6->priority << 4 | ip6->flow_lbl[0] >> 4;
		f->ttl = ip6->hop_limit;
		f->payload = bpf_ntohs(ip6->payload_len) + sizeof(*ip6) - behind;
	} else {
		struct iphdr *ip4 = ip;

		if ((void *)(ip4 + 1) > end)
			return false;
		f->tos = ip4->tos;
		f->ttl = ip4->ttl;
		f->payload = bpf_ntohs(ip4->tot_len) - behind;
	}
	return true;
}

/* The sum of an IPv6 pseudo header of an ICMPv6 message (RFC 8200, section 8.1). */
step u64 pseudo_sum(const struct tuple *t, u32 length)
{
	return sum_words((const void *)t, 8) + bpf_htonl(length) + bpf_htonl(IPPROTO_ICMPV6);
}

/*
 * The sum of what is quoted behind the IP header, from the checksum, less all else that
 * it covers; and the message in the other version. SUM_FAILED if there is none.
 */
step u32 take_apart(struct xdp_md *ctx, const struct course *c, struct message *m)
{
	const struct shape *pkt = &c->shape;
	u32 header = sum_bytes(ctx, pkt->quoted, pkt->quoted_l4 - pkt->quoted);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmp_header *icmp = data + (pkt->l4 & L4_MASK);
	u64 sum;

	if (header == SUM_FAILED || (void *)(icmp + 1) > end)
		return SUM_FAILED;
	*m = pkt->ipv6 ? to_icmp(icmp->type, icmp->code, icmp->rest) :
			 to_icmpv6(icmp->type, icmp->code, icmp->rest);
	if (!m->type)
		return SUM_FAILED;
	sum = (u16)~icmp->checksum + (u16)~header + (u64)(u32)~icmp->rest +
	      (u16) ~(*(u16 *)&icmp->type);
	if (pkt->ipv6)
		sum += (u16)~fold_sum(pseudo_sum(&c->outer, pkt->l3 + pkt->length - pkt->l4));
	return fold_sum(sum);
}

/* Writes message and quoted IP header at an offset; sum is that of what stands behind. */
step bool put_together(struct xdp_md *ctx, u32 at, const struct message *m, const struct course *c,
		       u64 sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct icmp_header *icmp = data + at;
	u32 *inner = (void *)(icmp + 1);
	bool ipv6 = !is_mapped(&c->outer_to.destination);

	if ((void *)inner + sizeof(struct iphdr) > end)
		return false;
	sum += sum_words(inner, sizeof(struct iphdr) / 4);
	if (ipv6) {
		if ((void *)inner + sizeof(struct ipv6hdr) > end)
			return false;
		sum += sum_words(inner + 5, IPV6_LONGER / 4);
		sum += pseudo_sum(&c->outer_to, c->outer_ip.payload);
	}
	write_icmp(icmp, m->type, m->code, m->rest, fold_sum(sum));
	return true;
}

/* What the functions below must know of the packet. */
step void set_error_shape(const struct packet *pkt, struct course *c)
{
	set_shape(pkt, &c->shape);
	c->outer_ip.protocol = pkt->ipv6 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	c->outer_ip.tos = pkt->tos;
	c->outer_ip.ttl = pkt->ttl - 1;
	c->outer_ip.payload = sizeof(struct icmp_header) + ip_header(!pkt->ipv6) + pkt->l3 +
			      pkt->length - pkt->quoted_l4;
}

/*
 * Makes the error one of the other IP version, behind the link header of the course's
 * hop. Returns an enum reason. By itself for the sake of its caller's stack.
 */
side_step u32 carry_error_over(struct xdp_md *ctx, struct course *c)
{
	u32 link, at, inner, header, sum;
	struct message m = {};
	u64 grown;

	if (!c)
		return DROP_INTERNAL;
	link = link_length(&c->hop);
	header = ip_header(!c->shape.ipv6);
	at = link + header;
	inner = at + sizeof(struct icmp_header);
	sum = take_apart(ctx, c, &m);
	if (c->shape.fragment || sum == SUM_FAILED ||
	    !read_quoted_ip(ctx, &c->shape, &c->quoted_ip))
		return DROP_UNTRANSLATABLE;
	grown = translate_quoted_transport(ctx, c->shape.quoted_l4, quoted_transport(&c->shape),
					   reverse_ports(c->to.ports),
					   address_difference(&c->from, &c->to));
	/* From here on it is the tuple of the quoted packet. */
	c->from.source = c->to.destination;
	c->from.destination = c->to.source;
	if (bpf_xdp_adjust_head(ctx, (int)c->shape.quoted_l4 - (int)(inner + header)))
		return DROP_NO_HEADROOM;
	if (!write_ip(ctx, inner, &c->quoted_ip, &c->from) ||
	    !write_ip(ctx, link, &c->outer_ip, &c->outer_to) ||
	    !put_together(ctx, at, &m, c, sum + grown) || !write_link(ctx, &c->hop, !c->shape.ipv6))
		return DROP_INTERNAL;
	return TX_FORWARDED;
}
