/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sums of bytes of a packet, for the Internet checksum (RFC 1071). */
#pragma once

#include "types.h"

#define SUM_PIECE 32
#define SUM_PIECES 300 /* 9600 bytes: more than any frame has */

/* Folds a sum of 32-bit words to 16 bits. */
step u16 fold_sum(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return fold_checksum((sum & 0xffff) + (sum >> 16));
}

step u64 sum_words(const u32 *word, int n)
{
	u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += word[i];
	return sum;
}

/* A longer sum than this does not happen: frames are no longer. */
#define SUM_FAILED 0x10000

/* The sum of bytes from an offset that is a word's boundary; SUM_FAILED if there are not as many.
 */
side_step u32 sum_bytes(struct xdp_md *ctx, u32 at, u32 length)
{
	u64 sum = 0;

	for (int i = 0; i < SUM_PIECES; i++) {
		u32 word[SUM_PIECE / 4] = {};
		u32 piece = length < SUM_PIECE ? length : SUM_PIECE;

		if (!piece)
			return fold_sum(sum);
		if (bpf_xdp_load_bytes(ctx, at, word, piece))
			return SUM_FAILED;
		for (int j = 0; j < SUM_PIECE / 4; j++)
			sum += word[j];
		at += piece;
		length -= piece;
	}
	return SUM_FAILED;
}
