/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* MSS: lowers the maximum segment size that a SYN announces (RFC 9293, section 3.7.1). */
#pragma once

#include "answer.h"
#include "maps.h"
#include "parse.h"

#define TCP_OPTIONS 40 /* bytes at most */
#define TCPOPT_END 0
#define TCPOPT_NOP 1
#define TCPOPT_MSS 2
#define TCPOLEN_MSS 4
#define TCP_ANY_MSS 0xffff

#define MSS_FOUND 0x10000

/*
 * Looks at the option at an offset of the segment's, which end at another: returns
 * where the next one is, with MSS_FOUND where this one's value is, or 0 for no more.
 */
side_step u32 next_option(struct xdp_md *ctx, u32 at, u32 options_end)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u8 *option = data + (at & L4_MASK);

	/* Shorter ones than this may follow, but not one that we look for. */
	if (at + TCPOLEN_MSS > options_end || (void *)(option + TCPOLEN_MSS) > end)
		return 0;
	if (option[0] == TCPOPT_NOP)
		return at + 1;
	if (option[0] == TCPOPT_END || option[1] < 2)
		return 0;
	if (option[0] != TCPOPT_MSS)
		return at + option[1];
	return option[1] == TCPOLEN_MSS ? MSS_FOUND | (at + 2) : 0;
}

/* The offset of the value of the MSS option of a segment, 0 if it has none. */
step u32 find_mss(struct xdp_md *ctx, u32 l4)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + l4;
	u32 at = l4 + sizeof(*tcp), options_end;

	if ((void *)(tcp + 1) > end)
		return 0;
	options_end = l4 + tcp->doff * 4;
	for (int i = 0; i < TCP_OPTIONS && at; i++) {
		at = next_option(ctx, at, options_end);
		if (at & MSS_FOUND)
			return at & L4_MASK;
	}
	return 0;
}

/* The largest segment that a SYN to a VIP of these terms may announce, bytes. */
step u16 mss_of(u32 index)
{
	struct vip_terms *t = bpf_map_lookup_elem(&terms, &index);

	return t ? t->mss : TCP_ANY_MSS;
}

/* Makes a SYN announce at most that many bytes. Returns 0. */
side_step int clamp_mss(struct xdp_md *ctx, u32 l4, u32 mss)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (l4 & L4_MASK);
	u32 at = find_mss(ctx, l4 & L4_MASK);
	u8 *value = data + at;
	u16 before, after = mss;

	if (!at || (void *)(value + 2) > end || (void *)(tcp + 1) > end)
		return 0;
	before = value[0] << 8 | value[1];
	if (before <= mss)
		return 0;
	value[0] = mss >> 8;
	value[1] = mss;
	/* On an odd offset its bytes belong to two words of the checksum, swapped (RFC 1071, 2.B).
	 */
	if ((at - l4) & 1) {
		before = __builtin_bswap16(before);
		after = __builtin_bswap16(after);
	}
	tcp->check = update_checksum(tcp->check, bpf_htons(before), bpf_htons(after));
	return 0;
}
