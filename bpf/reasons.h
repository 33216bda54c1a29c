/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every way out of the program. The prefix says what becomes of the packet; the
 * control plane reads the names from BTF and shows them to the operator in lower
 * case, so a new line here is all that a new reason needs.
 */
#pragma once

#include "types.h"

enum reason {
	/* Left to the kernel, untouched. */
	PASS_NOT_IP,  /* not IPv4 or IPv6 */
	PASS_NOT_VIP, /* for no VIP of ours, or for a port or protocol that we do not serve */

	/* Translated, and left to the kernel, which has to find the way. */
	PASS_REPLY, /* a backend's answer */

	/* Sent on to a backend, or answered. */
	TX_FORWARDED,  /* through the interface it came from */
	TX_REPLY,      /* a backend's answer to a client, translated */
	TX_ECHO_REPLY, /* echo request to a VIP */
	TX_RESET,      /* TCP to a pool that is down, which resets */
	TX_TOO_BIG,    /* larger than the way to the backend carries: ICMP says how large may be */
	TX_TTL_EXCEEDED,    /* TTL or hop limit used up: ICMP says so */
	TX_SYN_COOKIE,      /* a SYN above the VIP's rate, answered with a cookie */
	TX_SYN_ACK,         /* a backend's SYN-ACK, acknowledged in the client's name */
	REDIRECT_FORWARDED, /* through another interface */
	REDIRECT_REPLY,

	/* For a VIP, and dropped. */
	DROP_TRUNCATED,                /* shorter than its headers say */
	DROP_MALFORMED,                /* a header contradicts itself */
	DROP_TCP_FLAGS,                /* a combination of TCP flags that no host sends */
	DROP_LAND,                     /* its source is its destination */
	DROP_BOGUS_SOURCE,             /* its source is an address that no packet may come from */
	DROP_DENIED,                   /* its source is on a list of those that are denied */
	DROP_NOT_ALLOWED,              /* its source is not on the list of those that are allowed */
	DROP_LIMIT_SOURCE_PACKETS,     /* more packets of its source than the VIP allows */
	DROP_LIMIT_SOURCE_CONNECTIONS, /* more new connections of its source */
	DROP_LIMIT_PACKETS,            /* more packets than the VIP is to have */
	DROP_LIMIT_CONNECTIONS,        /* more new connections */
	DROP_LIMIT_BACKEND,            /* a new connection of a backend that has all it may have */
	DROP_EXTENSION_HEADERS,        /* more IPv6 extension headers than we follow */
	DROP_FRAGMENT_EARLY,           /* a fragment whose first one has not come */
	DROP_ICMP_ERROR,               /* an ICMP error that does not tell which flow it is about */
	DROP_TTL_EXCEEDED,             /* TTL or hop limit used up, and no answer */
	DROP_NO_BACKEND,               /* no backend is up */
	DROP_SYN_FLOOD,                /* a SYN above the VIP's rate that no cookie answers */
	DROP_NO_NAT_PORT,              /* no port is free that a connection could come from */
	DROP_NO_CONNECTION,            /* of a connection that is not known, and no answer */
	DROP_UNTRANSLATABLE,           /* the other IP version has nothing like it */
	DROP_UNRESOLVED,               /* the backend's next hop is not known */
	DROP_TOO_BIG,     /* larger than the way to the backend carries, and no answer */
	DROP_NO_HEADROOM, /* the driver left no room for what is added */
	DROP_INTERNAL,    /* the maps contradict each other: a bug */

	REASONS,
};

/* Limits of a VIP, in the order of their reasons, and of looking. */
enum limited {
	LIMITED_SOURCE_PACKETS,
	LIMITED_SOURCE_CONNECTIONS,
	LIMITED_PACKETS,
	LIMITED_CONNECTIONS,
	LIMITS,
};

/*
 * A way out that few packets take. The compiler would otherwise have all packets prepare for
 * it, by setting what it returns beforehand.
 */
step enum reason rarely(enum reason reason)
{
	barrier_var(reason);
	return reason;
}

/* The XDP verdict of a reason; the reasons are in the order of their verdicts. */
step int verdict(enum reason reason)
{
	if (reason >= DROP_TRUNCATED)
		return XDP_DROP;
	if (reason >= REDIRECT_FORWARDED)
		return XDP_REDIRECT;
	if (reason >= TX_FORWARDED)
		return XDP_TX;
	return XDP_PASS;
}
