/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Affinity: the hash of a flow of a VIP that keeps flows of a source together.
 * Its upper half, which chooses the slot, is that of the source alone; its lower
 * half still tells flows apart, so that the flow table and the outer header's
 * entropy need not know.
 */
#pragma once

#include "hash.h"
#include "maps.h"
#include "packet.h"

enum which_affinity {
	AFFINITY_NOW,
	AFFINITY_PRIOR,
};

step u64 source_hash(const struct address *source, u32 salt)
{
	u64 h = mix(source->word[0] ^ hash_seed[1], HASH_MULTIPLIER_3) + source->word[1];

	h = mix(h ^ hash_seed[0], HASH_MULTIPLIER_0) + salt;
	return mix(mix(h, HASH_MULTIPLIER_1), HASH_MULTIPLIER_2);
}

/* Offset of the client's address in the frame; an ICMP error quotes a packet to the client. */
step u32 client_offset(const struct packet *pkt)
{
	if (pkt->ipv6)
		return pkt->quoted ? pkt->quoted + 24 : pkt->l3 + 8;
	return pkt->quoted ? pkt->quoted + 16 : pkt->l3 + 12;
}

step bool load_client(struct xdp_md *ctx, u32 at, bool ipv6, struct address *client)
{
	__be32 addr;

	if (ipv6)
		return !bpf_xdp_load_bytes(ctx, at, client, sizeof(*client));
	if (bpf_xdp_load_bytes(ctx, at, &addr, sizeof(addr)))
		return false;
	*client = map_ipv4(addr);
	return true;
}

/* The hash under a VIP's terms of a flow whose own hash is given. */
side_step u64 affine_hash(struct xdp_md *ctx, u32 at, u32 ipv6, u32 terms_and_which, u64 hash)
{
	u32 index = terms_and_which & 0xffff;
	struct vip_terms *t = bpf_map_lookup_elem(&terms, &index);
	struct affinity affinity;
	struct address client;

	if (!t)
		return hash;
	affinity = terms_and_which >> 16 == AFFINITY_NOW ? t->affinity : t->prior_affinity;
	if (!affinity.mask_ipv4 || !load_client(ctx, at, ipv6, &client))
		return hash;
	if (ipv6) {
		client.word[0] &= affinity.mask_ipv6.word[0];
		client.word[1] &= affinity.mask_ipv6.word[1];
	} else {
		client.word[1] &= MAPPED_IPV4 | (u64)affinity.mask_ipv4 << 32;
	}
	return (source_hash(&client, affinity.salt) >> 32 << 32) | (u32)hash;
}
