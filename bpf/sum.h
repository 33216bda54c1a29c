/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sums of bytes of a packet, for the Internet checksum (RFC 1071). */
#pragma once

#include "types.h"

#define SUM_PIECE 64
#define SUM_PIECES 150 /* 9600 bytes: more than any frame has */

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

/* No sum of 16-bit words, folded. */
#define SUM_FAILED 0x10000

/*
 * The sum so far and that of a piece of 1 to SUM_PIECE bytes; SUM_FAILED if there are not as
 * many. A function, so that the verifier forgets the sum and sees one piece as the
 * next.
 */
side_step u32 add_piece(struct xdp_md *ctx, u32 at, u32 length, u32 sum)
{
	u32 word[SUM_PIECE / 4] = {};

	/* Bounds that older verifiers understand: 1 to SUM_PIECE. */
	length = (length - 1) % SUM_PIECE + 1;
	if (sum == SUM_FAILED || bpf_xdp_load_bytes(ctx, at, word, length))
		return SUM_FAILED;
	return fold_sum(sum_words(word, SUM_PIECE / 4) + sum);
}

/* The sum of bytes from an offset that is a word's boundary; SUM_FAILED if there are not as many.
 */
side_step u32 sum_bytes(struct xdp_md *ctx, u32 at, u32 length)
{
	u32 pieces = length / SUM_PIECE, rest = length % SUM_PIECE, sum = 0;

	if (pieces > SUM_PIECES)
		return SUM_FAILED;
	for (u32 i = 0; i < SUM_PIECES && i < pieces; i++)
		sum = add_piece(ctx, at + i * SUM_PIECE, SUM_PIECE, sum);
	return rest ? add_piece(ctx, at + pieces * SUM_PIECE, rest, sum) : sum;
}
