/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Allowance: a token bucket of one CPU's, whose tokens are time. */
#pragma once

#include "maps.h"

#define ALLOWANCE 1000000000ULL /* ns: at most as much at once as in a second, and one at least */

/* Takes what something costs, ns, from an allowance; false if it has not as much. */
step bool draw(struct allowance *a, u64 cost)
{
	u64 now = bpf_ktime_get_coarse_ns(), most = cost > ALLOWANCE ? cost : ALLOWANCE;

	a->credit += now - a->last;
	a->last = now;
	if (a->credit > most)
		a->credit = most;
	if (a->credit < cost)
		return false;
	a->credit -= cost;
	return true;
}
