/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The keyed hash of a flow. Every balancer of a fleet has the same seed, so all
 * give a flow the same slot; without the seed nobody can aim at one.
 * pkg/dataplane/hash.go is its twin in Go.
 *
 * It multiplies by odd constants and shifts the high half down between, each of
 * which is a bijection: with IPv4, flows that differ in addresses alone, or in
 * ports alone, never collide. Addresses and ports are taken as they lie on the wire.
 */
#pragma once

#include "types.h"

const volatile u64 hash_seed[2];

/* Odd, and without pattern: the fractional parts of the square roots of 2, 3, 5 and 7. */
#define HASH_MULTIPLIER_0 0x6a09e667f3bcc909ULL
#define HASH_MULTIPLIER_1 0xbb67ae8584caa73bULL
#define HASH_MULTIPLIER_2 0x3c6ef372fe94f82bULL
#define HASH_MULTIPLIER_3 0xa54ff53a5f1d36f1ULL

step u64 mix(u64 h, u64 multiplier)
{
	h *= multiplier;
	return h ^ h >> 32;
}

step u64 rotate(u64 h, int bits)
{
	return h << bits | h >> (64 - bits);
}

step u64 fold_ipv4(__be32 source, __be32 destination)
{
	return (u64)destination << 32 | source;
}

step u64 fold_ipv6(const struct in6_addr *source, const struct in6_addr *destination)
{
	struct address s = load_ipv6(source), d = load_ipv6(destination);
	u64 a = mix(s.word[0] ^ hash_seed[0], HASH_MULTIPLIER_2) + s.word[1];
	u64 b = mix(d.word[0] ^ hash_seed[1], HASH_MULTIPLIER_3) + d.word[1];

	/* Turned, for mix passes the highest bit of both on alike, and a sum would take it out. */
	return mix(a, HASH_MULTIPLIER_3) + rotate(mix(b, HASH_MULTIPLIER_2), 17);
}

step u64 flow_hash(u64 addresses, u32 ports, u8 protocol)
{
	u64 h = mix(addresses ^ hash_seed[0], HASH_MULTIPLIER_0);

	h += ((u64)protocol << 32 | ports) ^ hash_seed[1];
	h = mix(h, HASH_MULTIPLIER_1);
	return mix(h, HASH_MULTIPLIER_2);
}
