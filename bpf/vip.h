/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * VIP: which VIP a packet is for. The table is open-addressed and has no
 * collisions to follow: the control plane chooses its size and its hash so that
 * no bucket overflows. One cache line per look-up.
 */
#pragma once

#include "maps.h"
#include "packet.h"

step bool same_key(const struct vip_entry *e, const struct address *a, u32 endpoint)
{
	return e->endpoint == endpoint && e->address.word[1] == a->word[1] &&
	       e->address.word[0] == a->word[0];
}

step struct vip_entry *find_key(const struct vip_table *table, const struct address *a,
				u32 endpoint)
{
	u64 hash = a->word[0] * table->multiplier[0] + a->word[1] * table->multiplier[1] +
		   endpoint * table->multiplier[2];
	u32 at = table->base + (hash >> (table->shift & 63));
	struct vip_bucket *bucket = bpf_map_lookup_elem(&vips, &at);

	if (!bucket)
		return NULL;
	if (same_key(&bucket->entry[0], a, endpoint))
		return &bucket->entry[0];
	if (same_key(&bucket->entry[1], a, endpoint))
		return &bucket->entry[1];
	return NULL;
}

step struct vip_table *current_vip_table(void)
{
	u32 zero = 0;
	struct control *c = bpf_map_lookup_elem(&control, &zero);

	return c ? &c->vip_table[c->current_vip_table & 1] : NULL;
}

/* The VIP of a TCP or UDP packet, or NULL. A VIP with a port comes before one with any. */
step struct vip_entry *find_vip(const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();
	struct vip_entry *vip;

	if (!table)
		return NULL;
	vip = find_key(table, &pkt->destination, endpoint(pkt->protocol, pkt->ports >> 16));
	if (!vip && table->any_port)
		vip = find_key(table, &pkt->destination, endpoint(pkt->protocol, 0));
	return vip;
}

/* Whether the packet's destination is the address of some VIP. */
step bool for_vip_address(const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();

	return pkt->l3 && table && find_key(table, &pkt->destination, ENDPOINT_ADDRESS);
}
