/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Room: how many connections a backend may still be given that has a limit of them.
 *
 * Packets count up only: a connection takes a place while fewer are taken than the ceiling
 * says. What has ended is known from sweeps, after each of which the control plane raises the
 * ceiling to what was taken when the sweep began, and the room that it found. What began
 * before it was found, or has ended; what began later is among what is taken.
 */
#pragma once

#include "maps.h"

/* How long a flow counts, ticks since it was last seen, that is not known to be a connection. */
#define ROOM_HALF_OPEN 40 /* 10 s: its second packet has not come */
#define ROOM_CLOSING 8    /* 2 s: its client has said that it ends, or what it says is late */

/* For so much less its packets take its place for granted: a sweep may be ahead. */
#define ROOM_MARGIN 4

/* Takes a place; false if the backend is full. A connection that goes on has one in any case. */
side_step u32 take_place(u32 backend, u32 goes_on)
{
	struct room *room = bpf_map_lookup_elem(&rooms, &backend);

	if (!room)
		return false;
	/* Read first: what is refused writes nothing. */
	if (!goes_on && *(volatile u64 *)&room->taken >= *(volatile u64 *)&room->ceiling)
		return false;
	return __sync_fetch_and_add(&room->taken, 1) < *(volatile u64 *)&room->ceiling || goes_on;
}

/* Gives a place back that no connection came of: a sweep never sees less taken than before. */
step void give_place(u32 backend)
{
	struct room *room = bpf_map_lookup_elem(&rooms, &backend);

	if (room)
		__sync_fetch_and_add(&room->ceiling, 1);
}
