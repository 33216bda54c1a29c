/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Translations: the connections of VIPs that translate source addresses (fullnat), and
 * the ports that they have towards backends.
 *
 * A translation has its place by the address and port that it gives its connection: that
 * of a packet from a backend is read, not searched, and no two connections, on whatever
 * CPUs they begin, can have the same port. A packet from a client finds it by the hash of its
 * flow: at home, see home.h, or among sessions, which name places. What stands there is
 * compared whole.
 *
 * Who writes a translation first claims it, by exchanging its state, then writes the
 * rest, then publishes by writing the state with another generation. Who reads one
 * looks at the generation before and after. Which ports are taken is also noted in a
 * bitmap, one line for 512, so that a free one is soon found; it is a hint, and what
 * counts is the exchange.
 */
#pragma once

#include "affinity.h"
#include "flow.h"
#include "nat.h"

/*
 * The state is one word: in bits 0 to 19 the tick at which a packet was last seen, in
 * 20 to 39 the index of the backend, in 40 to 55 the generation, in 56 to 63 flags:
 * none if the port is free.
 */
struct translation {
	u64 state;
	struct address client;
	struct address address; /* of the VIP */
	u32 ports;              /* source and destination of the client's packets */
	u8 mac[12];             /* the way back: where packets come from, and where to */
	u32 ifindex;
	__be16 vlan;
	u16 vip;
};

_Static_assert(sizeof(struct translation) == 64, "a translation is one cache line");

#define NAT_GENERATION_SHIFT 40
#define NAT_GENERATION_MASK 0xffff

#define NAT_CLOSED (NAT_CLIENT_CLOSED | NAT_BACKEND_CLOSED)

/* Until then it may be one that its client knows nothing of, whose address was forged. */
#define NAT_OPEN (NAT_REPLIED | NAT_SPOKEN)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct translation);
} translations SEC(".maps");

/* A bit for each translation. */
struct nat_ports_line {
	u64 word[8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nat_ports_line);
} nat_ports SEC(".maps");

/* What VIPs that translate have besides. */
struct nat_timeout {
	u32 idle;     /* timeout, in ticks of the translations' clock */
	u32 syn_rate; /* SYNs a second that go on, 0: all */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nat_timeout);
} nat_timeouts SEC(".maps");

/* The addresses that connections come from: a prefix, and how many it has, 0: none. */
const volatile __be32 nat_source_ipv4;
const volatile u64 nat_source_ipv6[2];
const volatile u32 nat_sources_ipv4, nat_sources_ipv6; /* powers of two */
const volatile u32 nat_first_port, nat_port_count;

/* The clock of translations is the kernel's, as that of fragments: 2^27 ns are 134 ms. */
#define NAT_TICK_SHIFT 27
#define NAT_REFRESH_AGE 4 /* ticks; so that few packets write */

/* How long a connection is remembered that has not begun, or has ended: 60 s, in ticks. */
#define NAT_TRANSITORY (60ULL * 1000000000 >> NAT_TICK_SHIFT)

/* How long it is at least, 2 s, whatever else wants its port. */
#define NAT_UNTOUCHED (2ULL * 1000000000 >> NAT_TICK_SHIFT)

/* An index: the number of the address, a bit for UDP, and the port. */
#define NAT_UDP_BIT 0x10000
#define NAT_ADDRESS_SHIFT 17
#define NAT_NONE (~0u)

step u32 nat_now(void)
{
	return bpf_ktime_get_coarse_ns() >> NAT_TICK_SHIFT & FLOW_TICK_MASK;
}

step u64 nat_state(u32 now, u32 backend, u64 generation, u64 flags)
{
	return (now & FLOW_TICK_MASK) | (u64)backend << FLOW_BACKEND_SHIFT |
	       (generation & NAT_GENERATION_MASK) << NAT_GENERATION_SHIFT |
	       flags << FLOW_FLAGS_SHIFT;
}

step u64 nat_generation(u64 state)
{
	return state >> NAT_GENERATION_SHIFT & NAT_GENERATION_MASK;
}

step struct translation *translation_at(u32 index)
{
	return bpf_map_lookup_elem(&translations, &index);
}

/* The address of a translation's index. */
step struct address nat_source(u32 index)
{
	u32 number = index >> NAT_ADDRESS_SHIFT;
	struct address a;

	if (number < nat_sources_ipv4)
		return map_ipv4(nat_source_ipv4 | bpf_htonl(number));
	a.word[0] = nat_source_ipv6[0];
	a.word[1] = nat_source_ipv6[1] | bpf_cpu_to_be64((u64)(number - nat_sources_ipv4));
	return a;
}

step __be16 nat_port(u32 index)
{
	return bpf_htons(index & 0xffff);
}

/* The number of an address that connections come from, NAT_NONE if it is none. */
step u32 nat_source_number(const struct address *a)
{
	u64 low = bpf_be64_to_cpu(a->word[1] ^ nat_source_ipv6[1]);
	u32 host = bpf_ntohl(unmap_ipv4(a) ^ nat_source_ipv4);

	if (nat_sources_ipv4 && is_mapped(a) && host < nat_sources_ipv4)
		return host;
	if (nat_sources_ipv6 && a->word[0] == nat_source_ipv6[0] && low < nat_sources_ipv6)
		return nat_sources_ipv4 + low;
	return NAT_NONE;
}

/* The index of the translation that a packet from a backend is for. */
step u32 nat_index(u32 number, u8 protocol, __be16 port)
{
	return number << NAT_ADDRESS_SHIFT | (protocol == IPPROTO_UDP ? NAT_UDP_BIT : 0) |
	       bpf_ntohs(port);
}

step u32 protocol_of(u32 index)
{
	return index & NAT_UDP_BIT ? IPPROTO_UDP : IPPROTO_TCP;
}

/* How long a connection may be silent, in ticks. */
step u32 nat_idle(u64 flags, u32 vip)
{
	struct nat_timeout *t;

	if ((flags & NAT_OPEN) != NAT_OPEN || flags & NAT_RESET ||
	    (flags & NAT_CLOSED) == NAT_CLOSED)
		return NAT_TRANSITORY;
	t = bpf_map_lookup_elem(&nat_timeouts, &vip);
	return t ? t->idle : NAT_TRANSITORY;
}

step u32 nat_age(u32 now, u64 state)
{
	u32 age = flow_age(now, state);

	/* A CPU that wrote it may have read the clock later than this one. */
	return age > FLOW_TICK_MASK / 2 ? 0 : age;
}
