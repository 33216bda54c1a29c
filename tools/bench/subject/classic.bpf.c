// clang-format off
//go:build ignore
// clang-format on

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What Steelyard is compared with: a load balancer of the usual shape, which looks every
 * packet up in a per-CPU LRU hash of flows, and encapsulates it IP-in-IP. It does no
 * more than it must: it knows no fragments, ICMP, options or time, and rewrites nothing.
 */
#include "encapsulate.h"
#include "hash.h"
#include "types.h"

#define RING_SIZE 65537
#define BACKENDS 4096

/* Packets are answers: the service is where they come from. */
const volatile bool answers;

/* Flows entered, and packets that are for no service. */
volatile u64 entered, passed;

struct service_key {
	__be32 address[4];
	__be16 port;
	u8 protocol;
	u8 reserved;
};

struct service {
	u32 flags;
	u32 number;
};

struct flow_key {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	u8 protocol;
	u8 reserved[3];
};

_Static_assert(sizeof(struct flow_key) == 40, "a flow's key is of the usual size");

struct flow {
	u32 backend;
	u32 reserved;
	u64 seen;
};

struct backend {
	__be32 address[4];
	u32 flags;
};

struct counters {
	u64 packets;
	u64 bytes;
};

/* Sizes given as 1 are set at load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING_SIZE);
	__type(key, u32);
	__type(value, u32);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} service_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, u32);
	__type(value, struct counters);
} backend_counters SEC(".maps");

struct packet {
	struct flow_key flow;
	u32 length; /* of the IP packet, bytes */
	bool ipv6;
};

/* Reads the ports; false if this is neither TCP nor UDP, or cut off. */
step bool parse_transport(void *head, void *end, u8 protocol, struct packet *pkt)
{
	struct udphdr *udp = head;
	struct tcphdr *tcp = head;

	if (protocol == IPPROTO_TCP ? (void *)(tcp + 1) > end :
				      protocol != IPPROTO_UDP || (void *)(udp + 1) > end)
		return false;
	pkt->flow.protocol = protocol;
	pkt->flow.source_port = udp->source;
	pkt->flow.destination_port = udp->dest;
	return true;
}

step bool parse(struct xdp_md *ctx, struct packet *pkt)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);

	if ((void *)(ip + 1) > end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		if (ip->ihl != sizeof(*ip) / 4)
			return false;
		pkt->flow.source[0] = ip->saddr;
		pkt->flow.destination[0] = ip->daddr;
		pkt->length = bpf_ntohs(ip->tot_len);
		return parse_transport(ip + 1, end, ip->protocol, pkt);
	}
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > end)
		return false;
	pkt->ipv6 = true;
	__builtin_memcpy(pkt->flow.source, &ip6->saddr, sizeof(pkt->flow.source));
	__builtin_memcpy(pkt->flow.destination, &ip6->daddr, sizeof(pkt->flow.destination));
	pkt->length = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
	return parse_transport(ip6 + 1, end, ip6->nexthdr, pkt);
}

step struct service *find_service(const struct packet *pkt)
{
	struct service_key key = { .protocol = pkt->flow.protocol };

	__builtin_memcpy(key.address, answers ? pkt->flow.source : pkt->flow.destination,
			 sizeof(key.address));
	key.port = answers ? pkt->flow.source_port : pkt->flow.destination_port;
	return bpf_map_lookup_elem(&services, &key);
}

/* The place of a flow in the ring. */
step u32 place(const struct flow_key *flow)
{
	u64 addresses = fold_ipv6((const void *)flow->source, (const void *)flow->destination);
	u32 ports = flow->source_port | (u32)flow->destination_port << 16;

	return (u32)flow_hash(addresses, ports, flow->protocol) % RING_SIZE;
}

/* The number of a flow's backend: what is known, or what the ring says, which is then known. */
step u32 choose(const struct flow_key *key)
{
	struct flow *known = bpf_map_lookup_elem(&flows, key), new = {};
	u32 at, *backend;

	if (known)
		return known->backend;
	at = place(key);
	backend = bpf_map_lookup_elem(&ring, &at);
	if (!backend)
		return BACKENDS;
	new.backend = *backend;
	if (!bpf_map_update_elem(&flows, key, &new, BPF_ANY))
		entered++;
	return new.backend;
}

step void count(void *map, u32 number, u32 bytes)
{
	struct counters *c = bpf_map_lookup_elem(map, &number);

	if (!c)
		return;
	c->packets++;
	c->bytes += bytes;
}

/* The outer source address tells flows apart, for the NICs of backends. */
step int encapsulate(struct xdp_md *ctx, const struct packet *pkt, const struct backend *b)
{
	struct in6_addr from = { .s6_addr = { 0x20, 1, 0, 2, [15] = 1 } }, to;
	u32 spread = pkt->flow.source[0] ^ pkt->flow.source_port;

	if (!pkt->ipv6)
		return encapsulate_ipv4(ctx, bpf_htonl(0xac100000) | spread << 16, b->address[0]);
	__builtin_memcpy(&to, b->address, sizeof(to));
	from.s6_addr32[3] ^= spread;
	return encapsulate_ipv6(ctx, &from, &to);
}

SEC("xdp.frags")
int classic(struct xdp_md *ctx)
{
	struct packet pkt = {};
	struct service *s = parse(ctx, &pkt) ? find_service(&pkt) : NULL;
	struct backend *b;
	u32 number;

	if (!s) {
		passed++;
		return XDP_PASS;
	}
	number = choose(&pkt.flow);
	b = bpf_map_lookup_elem(&backends, &number);
	if (!b)
		return XDP_DROP;
	count(&service_counters, s->number, pkt.length);
	count(&backend_counters, number, pkt.length);
	return encapsulate(ctx, &pkt, b);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
