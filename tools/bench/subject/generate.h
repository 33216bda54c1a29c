/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frames of many flows, one for each run of a program: the kernel hands it the same memory
 * over and over, and what one run encapsulates is the next one's input. So a program first
 * puts the frame back to what it was, with another flow's addresses.
 */
#pragma once

#include "types.h"

#define FRAME_LENGTH 110
#define FRAME_WORDS 14
#define MAX_GROWTH 64 /* of what a program under test puts before the frame */

/* A frame without a flow's addresses and ports: its first 8 bytes, then all from the 6th on. */
volatile u64 frame[FRAME_WORDS];
const volatile bool ipv6;
/* Where the IP header lies whose addresses are the flow's: the packet's, or one that it quotes. */
const volatile u32 header;
/* The header is that of a packet the other way: to the client. */
const volatile bool reversed;
/* Where it goes to: the address as the last bytes of this word, and the port. */
const volatile u64 destination;
const volatile __be16 port;
/* How many addresses flows go to. If it is not 1, they differ in the last 2 bytes, from 0 on. */
const volatile u32 destinations;

/* Flows that take turns. */
volatile u64 flows;
/* The flow whose turn it is, and how many on is the next one: less than all of them. */
volatile u64 turn, stride;
/* Frames made, ever. */
volatile u64 generated;
/* Frames are the answers that have been learnt. */
volatile bool answering;

/* Addresses and ports of a frame, as they lie there; addresses of IPv4 fill one word. */
struct ends {
	u64 addresses[4];
	u32 ports;
	u32 reserved;
};

/* Those of the answer to each flow's packet, by flow. Its size is set at load. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ends);
} answers SEC(".maps");

step u64 next_flow(void)
{
	u64 flow = turn, next = flow + stride;

	turn = next < flows ? next : next - flows;
	return flow;
}

/* Where addresses and ports lie behind the beginning of an IP header. */
enum {
	IPV4_ADDRESSES = 12,
	IPV4_PORTS = sizeof(struct iphdr),
	IPV6_ADDRESSES = 8,
	IPV6_SOURCE_END = IPV6_ADDRESSES + 8,
	IPV6_DESTINATION_END = IPV6_SOURCE_END + 16,
	IPV6_PORTS = sizeof(struct ipv6hdr),
};

step u64 swap_addresses(u64 addresses)
{
	return addresses << 32 | addresses >> 32;
}

step u32 swap_ports(u32 ports)
{
	return ports << 16 | ports >> 16;
}

/*
 * The low half of the product is another one for each flow, and so are source address
 * and port. IPv4 sources are from 128.0.0.0/2, where all are addresses of hosts.
 */
step void write_flow(void *ip, u64 flow)
{
	u64 spread = flow * 0x6a09e667f3bcc909ULL;
	u32 low = spread, source = low ^ low >> 16, ports = (u32)port << 16 | (u16)(spread >> 32);
	u64 address = destination;

	if (destinations > 1)
		address |= (u64)bpf_htons(((spread >> 32) * destinations) >> 32) << 48;
	if (reversed)
		ports = swap_ports(ports);
	if (ipv6) {
		*(u64 *)(ip + (reversed ? IPV6_DESTINATION_END : IPV6_SOURCE_END)) = (u64)source
										     << 32;
		*(u64 *)(ip + (reversed ? IPV6_SOURCE_END : IPV6_DESTINATION_END)) = address;
		*(u32 *)(ip + IPV6_PORTS) = ports;
	} else {
		address |= (source & ~0xc0u) | 0x80;
		*(u64 *)(ip + IPV4_ADDRESSES) = reversed ? swap_addresses(address) : address;
		*(u32 *)(ip + IPV4_PORTS) = ports;
	}
}

/* The same of the answer to a flow's packet. */
step void write_answer(void *ip, u32 flow)
{
	struct ends *e = bpf_map_lookup_elem(&answers, &flow);

	if (!e)
		return;
	if (ipv6) {
		for (int i = 0; i < 4; i++)
			*(u64 *)(ip + IPV6_ADDRESSES + 8 * i) = e->addresses[i];
		*(u32 *)(ip + IPV6_PORTS) = e->ports;
	} else {
		*(u64 *)(ip + IPV4_ADDRESSES) = e->addresses[0];
		*(u32 *)(ip + IPV4_PORTS) = e->ports;
	}
}

/*
 * Makes the next frame. The frame is longer than it was by what the last run put
 * before it, which is taken off again.
 *
 * A CPU that reads what it has just written waits, unless one write made all of
 * what is read. A program that reads a frame from a NIC never waits so, and should
 * not here: what headers hold together is written together, and the helper is
 * called after the writing, even if there is nothing to take off. So every program
 * also pays the same for its frame.
 */
step bool generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u64 growth = end - data - FRAME_LENGTH;
	void *to;

	barrier_var(growth);
	if (growth > MAX_GROWTH)
		return false;
	to = data + growth;
	if (to + FRAME_LENGTH > end)
		return false;
	*(u64 *)to = frame[0];
	for (int i = 1; i < FRAME_WORDS; i++)
		*(u64 *)(to + 8 * i - 2) = frame[i];
	if (answering)
		write_answer(to + sizeof(struct ethhdr), next_flow());
	else
		write_flow(to + header, next_flow());
	if (bpf_xdp_adjust_head(ctx, growth))
		return false;
	generated++;
	return true;
}
