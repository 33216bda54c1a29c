/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * QUIC: which packets start a connection, and which backend a connection ID names
 * (RFC 8999, RFC 9000, RFC 9369; draft-ietf-quic-load-balancers, plaintext). A
 * packet that names a backend goes there wherever its client has moved to.
 */
#pragma once

#include "maps.h"
#include "packet.h"

#define QUIC_LONG_HEADER 0x80
#define QUIC_TYPE 0x30
#define QUIC_V1 bpf_htonl(0x00000001)
#define QUIC_V2 bpf_htonl(0x6b3343cf)
#define QUIC_V1_0RTT 0x10
#define QUIC_V2_INITIAL 0x10
#define QUIC_V2_0RTT 0x20

#define QUIC_CLIENT_CID 8 /* bytes at least (RFC 9000, section 7.2) */

#define CID_CONFIG_SHIFT 5
#define CID_LONGEST_SERVER_ID 15

/* The head of a long header. A connection ID follows at once in a short one. */
struct quic_long {
	u8 first;
	__be32 version;
	u8 cid_length;
} __attribute__((packed));

/* What quic_peek found: the index of a backend in the lower half. */
#define QUIC_OPENER (1ULL << 32)

/*
 * Initials start connections, as does the 0-RTT that comes with them and may
 * overtake them; so may any long header of a version that we do not know.
 */
step bool is_quic_opener(const struct quic_long *head)
{
	u8 type = head->first & QUIC_TYPE;

	if (head->version != QUIC_V1 && head->version != QUIC_V2)
		return true;
	/* An ID of the client's own making is longer: this one the server has chosen. */
	if (head->cid_length < QUIC_CLIENT_CID)
		return false;
	if (head->version == QUIC_V1)
		return type <= QUIC_V1_0RTT;
	return type == QUIC_V2_INITIAL || type == QUIC_V2_0RTT;
}

/* Length of the server IDs of a configuration, 0 if a VIP has none of it. */
step u32 server_id_length(u32 terms_index, u32 config)
{
	struct vip_terms *t = bpf_map_lookup_elem(&terms, &terms_index);

	return t ? t->server_ids >> (config & 7) * 4 & 0xf : 0;
}

/*
 * The index of the backend that the connection ID at an offset names, 0 if none.
 * Room is how many bytes the ID may have at most.
 */
step u32 named_backend(struct xdp_md *ctx, u32 at, u32 room, u32 vip, u32 terms_index)
{
	u8 cid[1 + CID_LONGEST_SERVER_ID];
	struct server_id key = { .vip = vip };
	u32 length, *index;

	/* Behind a short connection ID there is always as much as that: a packet number and a tag.
	 */
	if (bpf_xdp_load_bytes(ctx, at, cid, sizeof(cid)))
		return 0;
	key.config = cid[0] >> CID_CONFIG_SHIFT;
	length = server_id_length(terms_index, key.config);
	if (!length || length >= room)
		return 0;
	for (u32 i = 0; i < CID_LONGEST_SERVER_ID; i++)
		key.id[i] = i < length ? cid[1 + i] : 0;
	index = bpf_map_lookup_elem(&server_ids, &key);
	return index ? *index : 0;
}

/*
 * Whether a UDP datagram for a VIP starts a connection, and the index of the backend
 * that it names, 0 if none.
 */
side_step u64 quic_peek(struct xdp_md *ctx, u32 l4, u32 vip, u32 terms_index)
{
	u32 at = l4 + sizeof(struct udphdr), cid = at + 1, room = ~0u;
	struct quic_long head;
	u64 opener = 0;

	if (bpf_xdp_load_bytes(ctx, at, &head, sizeof(head)))
		return 0;
	if (head.first & QUIC_LONG_HEADER) {
		opener = is_quic_opener(&head) ? QUIC_OPENER : 0;
		cid = at + sizeof(head);
		room = head.cid_length;
	}
	return opener | named_backend(ctx, cid, room, vip, terms_index);
}
