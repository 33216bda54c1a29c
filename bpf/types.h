/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Scalar types, and the one representation of an address. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;

#define true 1
#define false 0
#define NULL ((void *)0)

/* What few packets are. */
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* A step of the packet path. */
#define step static __always_inline

/*
 * A step that few packets take. It is verified once, by itself, and what it
 * returns is unknown to the verifier, so the paths through it end there instead
 * of multiplying those behind it.
 */
#define side_step __attribute__((noinline))

/*
 * An IPv6 address, or an IPv4 address mapped into one (RFC 4291, 2.5.5.2), as
 * two words that hold its bytes as they are on the wire.
 */
struct address {
	u64 word[2];
};

#define MAPPED_IPV4 ((u64)bpf_htonl(0xffff))

step struct address map_ipv4(__be32 addr)
{
	struct address a = { .word = { 0, MAPPED_IPV4 | (u64)addr << 32 } };
	return a;
}

/* The inverse of map_ipv4. */
step __be32 unmap_ipv4(const struct address *a)
{
	return a->word[1] >> 32;
}

step bool is_mapped(const struct address *a)
{
	return !a->word[0] && (u32)a->word[1] == MAPPED_IPV4;
}

step struct address load_ipv6(const struct in6_addr *addr)
{
	const u64 *words = (const void *)addr;
	struct address a = { .word = { words[0], words[1] } };

	return a;
}

/* The checksum of a header one of whose upper bytes, by its place in a word, is now 1 less. */
step u16 checksum_of_less(u16 check)
{
	u32 sum = (u32)check + bpf_htons(0x0100);

	return sum + (sum >> 16);
}

/* Folds a sum of 16-bit words to the Internet checksum's 16 bits (RFC 1071). */
step u16 fold_checksum(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}
