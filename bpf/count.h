/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Count: each CPU for itself, so no counter is shared. */
#pragma once

#include "maps.h"
#include "packet.h"

step void count_in_row(void *map, u32 row, u32 index, const struct packet *pkt)
{
	u32 at = bpf_get_smp_processor_id() * row + index;
	struct counters *c = bpf_map_lookup_elem(map, &at);

	if (!c)
		return;
	c->packets++;
	c->bytes += pkt->length;
	if (pkt->opener)
		c->connections++;
}

step void count_for_vip(u32 vip, const struct packet *pkt)
{
	count_in_row(&vip_rows, vip_row, vip, pkt);
}

step void count_for_backend(u32 backend, const struct packet *pkt)
{
	count_in_row(&backend_rows, backend_row, backend, pkt);
}

step int leave(enum reason reason)
{
	u32 index = reason;
	u64 *count = bpf_map_lookup_elem(&reasons, &index);

	if (count)
		++*count;
	return verdict(reason);
}
