/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Guard: what of a VIP's packets is dropped although it is well-formed and there is
 * a backend for it. It is asked before slot and flow table, so that what it drops
 * leaves no trace there.
 */
#pragma once

#include "count.h"
#include "screen.h"

/* TX_FORWARDED, or why a packet for the VIP of some counters goes no further. */
step enum reason guard(struct xdp_md *ctx, const struct packet *pkt, u32 vip)
{
	u8 reason = screen(ctx, pkt);

	if (!reason)
		return TX_FORWARDED;
	count_packet(&vip_counters, vip, pkt);
	return reason;
}
