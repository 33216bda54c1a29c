/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Cookie: the answer to a SYN of which nothing is remembered (RFC 4987, section 3.6). The
 * cookies are the kernel's, under its secrets: they live for a minute or two, and not
 * beyond a reboot.
 */
#pragma once

#include "mss.h"
#include "nat_path.h"
#include "segment.h"

/*
 * The segments that a client may send at most, bytes. The backend is not known yet, and
 * may be behind IPv6 though the VIP is not.
 */
#define SYN_COOKIE_MSS 1440

/* The segments that backends may send at most, bytes: those fit everywhere (RFC 8200, 5). */
#define SYN_SPLICE_MSS 1220

/* A TCP option that tells an MSS. */
step u32 mss_option(u32 mss)
{
	return bpf_htonl(TCPOPT_MSS << 24 | TCPOLEN_MSS << 16 | mss);
}

/* Copies a TCP header to where the course has it; false if it is cut off. */
step bool load_tcp(struct xdp_md *ctx, u32 l4, struct course *c)
{
	return !bpf_xdp_load_bytes(ctx, l4, c->head.tcp, sizeof(struct tcphdr));
}

step struct tcphdr *tcp_of(struct course *c)
{
	return (void *)c->head.tcp;
}

/*
 * Completes a client's header for the kernel's functions: with addresses, which is all of
 * the IP header that counts, and without options. Cookies tell an MSS, by a small number
 * that is added to them, which for want of the option is 0.
 */
step void complete_head(struct course *c)
{
	struct ipv6hdr *ip6 = (void *)c->head.ip;
	struct iphdr *ip4 = (void *)c->head.ip;

	if (is_mapped(&c->from.source)) {
		ip4->saddr = unmap_ipv4(&c->from.source);
		ip4->daddr = unmap_ipv4(&c->from.destination);
	} else {
		__builtin_memcpy(&ip6->saddr, &c->from.source, sizeof(ip6->saddr));
		__builtin_memcpy(&ip6->daddr, &c->from.destination, sizeof(ip6->daddr));
	}
	tcp_of(c)->doff = sizeof(struct tcphdr) / 4;
}

/* A cookie for the SYN whose header the course has; negative if there is none. */
side_step s64 make_cookie(u32 ipv6)
{
	struct course *c = this_course();
	s64 cookie;

	if (!c)
		return -1;
	complete_head(c);
	cookie = ipv6 ? bpf_tcp_raw_gen_syncookie_ipv6((void *)c->head.ip, tcp_of(c),
						       sizeof(struct tcphdr)) :
			bpf_tcp_raw_gen_syncookie_ipv4((void *)c->head.ip, tcp_of(c),
						       sizeof(struct tcphdr));
	return cookie < 0 ? cookie : (u32)cookie;
}

/* Whether the segment would return a cookie if it had another sequence number. */
step bool is_cookie(struct course *c, u32 seq, bool ipv6)
{
	tcp_of(c)->seq = bpf_htonl(seq);
	return ipv6 ? !bpf_tcp_raw_check_syncookie_ipv6((void *)c->head.ip, tcp_of(c)) :
		      !bpf_tcp_raw_check_syncookie_ipv4((void *)c->head.ip, tcp_of(c));
}

/*
 * Whether the segment whose header the course has, acknowledges a cookie; if so, its
 * sequence number is 1 more than the client's initial one. One that probes a window has 1
 * less, and so would be one whose cookie tells the next larger MSS, if any did.
 */
side_step u32 returns_cookie(u32 ipv6)
{
	struct course *c = this_course();
	u32 seq;

	if (!c)
		return false;
	complete_head(c);
	seq = bpf_ntohl(tcp_of(c)->seq);
	if (!is_cookie(c, seq, ipv6))
		return false;
	if (is_cookie(c, seq + 1, ipv6))
		seq++;
	if (is_cookie(c, seq + 1, ipv6))
		return false;
	tcp_of(c)->seq = bpf_htonl(seq);
	return true;
}

/*
 * Answers a SYN with a cookie. The window is closed: the backend is to be
 * there before the client's first byte.
 */
side_step u32 answer_cookie(struct xdp_md *ctx, u32 l3, u32 l4, u32 cookie, u32 ipv6)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	struct segment s = {};

	if ((void *)(tcp + 1) > end)
		return DROP_INTERNAL;
	s.tcp.source = tcp->dest;
	s.tcp.dest = tcp->source;
	s.tcp.seq = bpf_htonl(cookie);
	s.tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
	s.tcp.doff = sizeof(s) / 4;
	s.tcp.syn = 1;
	s.tcp.ack = 1;
	s.option = mss_option(SYN_COOKIE_MSS);
	return answer_segment(ctx, l3, ipv6, &s, sizeof(s)) ? TX_SYN_COOKIE : DROP_NO_HEADROOM;
}
