/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Count: per CPU, so no counter is shared. */
#pragma once

#include "maps.h"
#include "packet.h"

step void count_packet(void *map, u32 index, const struct packet *pkt)
{
	struct counters *c = bpf_map_lookup_elem(map, &index);

	if (!c)
		return;
	c->packets++;
	c->bytes += pkt->length;
	c->connections += pkt->opener;
}

step int leave(enum reason reason)
{
	u32 index = reason;
	u64 *count = bpf_map_lookup_elem(&reasons, &index);

	if (count)
		++*count;
	return verdict(reason);
}
