/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Parts: the programs that the main one calls for what few packets are, and that call
 * each other. They are not functions of the main one, for the sake of that one's
 * registers and stack.
 */
#pragma once

#include "maps.h"

int steelyard_part(struct xdp_md *ctx);
int steelyard_nat(struct xdp_md *ctx);
int steelyard_nat_fragment(struct xdp_md *ctx);
int steelyard_nat_error(struct xdp_md *ctx);
int steelyard_syn(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, PARTS);
	__type(key, u32);
	__array(values, int(void *));
} parts SEC(".maps") = {
	.values = {
		[PART_NOT_PLAIN] = (void *)&steelyard_part,
		[PART_NAT] = (void *)&steelyard_nat,
		[PART_NAT_FRAGMENT] = (void *)&steelyard_nat_fragment,
		[PART_NAT_ERROR] = (void *)&steelyard_nat_error,
		[PART_SYN] = (void *)&steelyard_syn,
	},
};
