// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The generator of the benchmark. The kernel runs a program over and over on one
 * frame, and what one run encapsulates is the next run's input. So each program
 * here first puts the frame back to what it was, with another flow's addresses,
 * and then does, or has done, what is measured.
 */
#include "encapsulate.h"
#include "generate.h"
#include "types.h"

/* The program under test, at 0. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} under_test SEC(".maps");

step int readdress(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	write_macs(eth);
	return XDP_TX;
}

/*
 * Learns the answer to the frame that the last run left: a backend would send it to where
 * that frame comes from. What still goes to the VIP's port has not been translated. The
 * stride is 1.
 */
step void learn(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *ip = data + sizeof(struct ethhdr);
	u32 flow = turn ? turn - 1 : flows - 1;
	struct ends *e = bpf_map_lookup_elem(&answers, &flow);
	u32 ports;

	if (!e || data + FRAME_LENGTH > (void *)(long)ctx->data_end)
		return;
	ports = *(u32 *)(ip + (ipv6 ? IPV6_PORTS : IPV4_PORTS));
	if (ports >> 16 == port)
		return;
	e->ports = swap_ports(ports);
	if (ipv6) {
		for (int i = 0; i < 4; i++)
			e->addresses[i ^ 2] = *(u64 *)(ip + IPV6_ADDRESSES + 8 * i);
	} else {
		e->addresses[0] = swap_addresses(*(u64 *)(ip + IPV4_ADDRESSES));
	}
}

/* What is left of the measuring when nothing is measured. */
SEC("xdp.frags")
int generator(struct xdp_md *ctx)
{
	return generate(ctx) ? XDP_TX : XDP_ABORTED;
}

/* What no load balancer can do without: the bytes that it must write, here constant. */
SEC("xdp.frags")
int floor_ipip_ipv4(struct xdp_md *ctx)
{
	if (!generate(ctx))
		return XDP_ABORTED;
	return encapsulate_ipv4(ctx, bpf_htonl(0xc6130001), bpf_htonl(0xc6130101));
}

SEC("xdp.frags")
int floor_ipip_ipv6(struct xdp_md *ctx)
{
	const struct in6_addr from = { .s6_addr = { 0x20, 1, 0, 2, [15] = 1 } };
	const struct in6_addr to = { .s6_addr = { 0x20, 1, 0, 2, [15] = 2 } };

	return generate(ctx) ? encapsulate_ipv6(ctx, &from, &to) : XDP_ABORTED;
}

SEC("xdp.frags")
int floor_l2(struct xdp_md *ctx)
{
	return generate(ctx) ? readdress(ctx) : XDP_ABORTED;
}

/* Hands the frame to the program under test. */
step int generate_and_call(struct xdp_md *ctx)
{
	if (!generate(ctx))
		return XDP_ABORTED;
	bpf_tail_call(ctx, &under_test, 0);
	return XDP_ABORTED;
}

SEC("xdp.frags")
int call(struct xdp_md *ctx)
{
	return generate_and_call(ctx);
}

/* The same, of the flow whose answer is to be learnt with the next run. */
SEC("xdp.frags")
int call_and_learn(struct xdp_md *ctx)
{
	learn(ctx);
	return generate_and_call(ctx);
}

/* Under test, the cost of the call itself. */
SEC("xdp.frags")
int transmit(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
