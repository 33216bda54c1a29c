/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * VIP: which VIP a packet is for. The table has no collisions to follow: the control plane
 * chooses its size and its hash so that every key has an entry of its own. Where that would
 * take a large table, keys lie in groups, and it chooses for each group how far its keys
 * are displaced (Belazzougui, Botelho and Dietzfelbinger, Hash, displace, and compress,
 * ESA 2009). A look-up reads one entry, and one displacement.
 */
#pragma once

#include "maps.h"
#include "packet.h"

step bool same_key(const struct vip_entry *e, const struct address *a, u32 endpoint)
{
	return e->endpoint == endpoint && e->address.word[1] == a->word[1] &&
	       e->address.word[0] == a->word[0];
}

step u32 entry_of(const struct vip_table *table, u64 hash)
{
	u32 at = hash >> table->shift;

	if (table->group_shift) {
		u32 group = table->first_group + (at >> table->group_shift);

		at += displacements.of[group & (2 * VIP_GROUPS - 1)];
	}
	return table->base + (at & table->mask);
}

step struct vip_entry *find_key(const struct vip_table *table, const struct address *a,
				u32 endpoint)
{
	u64 hash = a->word[0] * table->multiplier[0] + a->word[1] * table->multiplier[1] +
		   endpoint * table->multiplier[2];
	u32 at = entry_of(table, hash);
	struct vip_entry *entry = bpf_map_lookup_elem(&vip_entries, &at);

	return entry && same_key(entry, a, endpoint) ? entry : NULL;
}

step struct vip_table *current_vip_table(void)
{
	return &ctl.vip_table[ctl.current_vip_table & 1];
}

#define RANGE_STEPS 16 /* halvings: a key has fewer than 2^16 ranges */

/* The index of the range of a port among so many from an index on, ~0 if none has it. */
side_step u32 find_range(u32 first, u32 count, u32 port)
{
	u32 low = first, high = first + count;

	for (int i = 0; i < RANGE_STEPS && low < high; i++) {
		u32 middle = (low + high) / 2;
		struct port_range *r = bpf_map_lookup_elem(&port_ranges, &middle);

		if (!r)
			return ~0;
		if (port < r->first)
			high = middle;
		else if (port > r->last)
			low = middle + 1;
		else
			return middle;
	}
	return ~0;
}

/* The VIP of a key that stands for ranges of ports. */
step struct vip_entry *choose_range(const struct vip_entry *key, u32 port)
{
	u32 at = find_range(key->terms, key->vip, port);
	struct port_range *r = bpf_map_lookup_elem(&port_ranges, &at);

	return r ? &r->vip : NULL;
}

/* The VIP of a TCP or UDP packet, or NULL. One with its port comes before one with a range or any.
 */
step struct vip_entry *find_vip(const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();
	struct vip_entry *vip;

	vip = find_key(table, &pkt->destination, endpoint(pkt->protocol, pkt->ports >> 16));
	/* To port 0 it may have been the key of ranges. */
	if ((vip && pkt->ports >> 16) || !table->wide)
		return vip;
	vip = find_key(table, &pkt->destination, endpoint(pkt->protocol, 0));
	if (vip && vip->flags & VIP_RANGES)
		return choose_range(vip, bpf_ntohs(pkt->ports >> 16));
	return vip;
}

/* The VIP that takes fragments of the packet's address and protocol without knowing the port. */
step struct vip_entry *find_fragment_vip(const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();

	return find_key(table, &pkt->destination, ENDPOINT_FRAGMENT | endpoint(pkt->protocol, 0));
}

/* Whether the packet's destination is the address of some VIP. */
step bool for_vip_address(const struct packet *pkt)
{
	struct vip_table *table = current_vip_table();

	return pkt->l3 && find_key(table, &pkt->destination, ENDPOINT_ADDRESS);
}
