// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The backend's side of dsr-ipip: takes the outer header off packets that a
 * configured balancer sent for a VIP, and leaves everything else to the kernel.
 *
 * parse outer -> balancer? -> parse inner -> VIP? -> take the header off -> pass
 */
#include "parse.h"
#include "types.h"

/* Every way out; the prefix says what becomes of the packet. */
enum decap_reason {
	PASS_NOT_TUNNEL,   /* not IP in IP */
	PASS_NOT_BALANCER, /* its outer source is no configured balancer */
	PASS_NOT_OURS,     /* its inner destination is no VIP of this host */
	PASS_DECAPSULATED,
	DROP_TUNNEL_MALFORMED,  /* a balancer's packet with broken headers */
	DROP_TUNNEL_CONGESTION, /* marked congested outside, not ECN capable inside */
	DROP_TUNNEL_INTERNAL,

	DECAP_REASONS,
};

/* BTF keeps only types that something has; this has the enumeration, for Go. */
const volatile struct vocabulary {
	enum decap_reason reason;
} vocabulary;

struct prefix {
	u32 length; /* bits of a mapped address */
	u8 address[16];
};

/* Outer sources that are balancers. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct prefix);
	__type(value, u32);
} balancers SEC(".maps");

/* Inner destinations that this host serves. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct address);
	__type(value, u32);
} local_vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DECAP_REASONS);
	__type(key, u32); /* enum decap_reason */
	__type(value, u64);
} decap_reasons SEC(".maps");

/* Explicit congestion notification (RFC 3168, section 5). */
enum ecn {
	ECN_NOT_CAPABLE,
	ECN_CAPABLE_1, /* ECT(1) */
	ECN_CAPABLE_0, /* ECT(0) */
	ECN_CONGESTED,
};

#define ECN_MASK 3

struct tunnel {
	struct address source; /* outer */
	u32 l3;                /* offset of the outer IP header */
	u32 inner;             /* offset of the inner one */
	bool inner_ipv6;
	u8 outer_ecn;
};

step bool is_mapped_ipv4(const struct address *a)
{
	return !a->word[0] && (u32)a->word[1] == MAPPED_IPV4;
}

/* Fills in the outer header; false if the packet is no IP in IP. */
step bool parse_outer(struct xdp_md *ctx, struct tunnel *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet pkt = {};
	__be16 type = parse_ethernet(ctx, &pkt);
	u8 protocol;

	t->l3 = pkt.l3;
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + pkt.l3;

		if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 ||
		    ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
			return false;
		t->source = map_ipv4(ip->saddr);
		t->outer_ecn = ip->tos & ECN_MASK;
		t->inner = pkt.l3 + ip->ihl * 4;
		protocol = ip->protocol;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + pkt.l3;

		if ((void *)(ip + 1) > end || ip->version != 6)
			return false;
		t->source = load_ipv6(&ip->saddr);
		/* Not valid on the wire, and past filters it would pass for a balancer's IPv4. */
		if (is_mapped_ipv4(&t->source))
			return false;
		t->outer_ecn = ip->flow_lbl[0] >> 4 & ECN_MASK;
		t->inner = pkt.l3 + sizeof(*ip);
		protocol = ip->nexthdr;
	} else {
		return false;
	}
	t->inner_ipv6 = protocol == IPPROTO_IPV6;
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

step bool from_balancer(const struct tunnel *t)
{
	struct prefix key = { .length = 128 };

	__builtin_memcpy(key.address, &t->source, sizeof(key.address));
	return bpf_map_lookup_elem(&balancers, &key);
}

/*
 * What the inner header is to say of congestion (RFC 6040, section 4.2): the
 * graver of the two. False if the packet must be dropped: it was marked
 * congested, and its ends would not understand the mark.
 */
step bool join_ecn(u8 outer, u8 *inner)
{
	if (outer == ECN_CONGESTED) {
		if (*inner == ECN_NOT_CAPABLE)
			return false;
		*inner = ECN_CONGESTED;
	} else if (outer == ECN_CAPABLE_1 && *inner == ECN_CAPABLE_0) {
		*inner = ECN_CAPABLE_1;
	}
	return true;
}

step bool carry_ecn_ipv4(struct iphdr *ip, u8 outer)
{
	u8 ecn = ip->tos & ECN_MASK, before = ip->tos, after;

	if (!join_ecn(outer, &ecn))
		return false;
	after = (before & ~ECN_MASK) | ecn;
	if (after == before)
		return true;
	ip->check = ~fold_checksum((u16)~ip->check + (u16)~bpf_htons(before) + bpf_htons(after));
	ip->tos = after;
	return true;
}

step bool carry_ecn_ipv6(struct ipv6hdr *ip, u8 outer)
{
	u8 ecn = ip->flow_lbl[0] >> 4 & ECN_MASK;

	if (!join_ecn(outer, &ecn))
		return false;
	ip->flow_lbl[0] = (ip->flow_lbl[0] & ~(ECN_MASK << 4)) | ecn << 4;
	return true;
}

/* Judges the inner packet; PASS_DECAPSULATED when it may be taken out. */
step enum decap_reason judge_inner(struct xdp_md *ctx, const struct tunnel *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	void *inner = data + (t->inner & 0xff);
	struct address destination;

	if (t->inner_ipv6) {
		struct ipv6hdr *ip = inner;

		if ((void *)(ip + 1) > end || ip->version != 6)
			return DROP_TUNNEL_MALFORMED;
		destination = load_ipv6(&ip->daddr);
		if (!bpf_map_lookup_elem(&local_vips, &destination))
			return PASS_NOT_OURS;
		return carry_ecn_ipv6(ip, t->outer_ecn) ? PASS_DECAPSULATED :
							  DROP_TUNNEL_CONGESTION;
	}
	struct iphdr *ip = inner;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return DROP_TUNNEL_MALFORMED;
	destination = map_ipv4(ip->daddr);
	if (!bpf_map_lookup_elem(&local_vips, &destination))
		return PASS_NOT_OURS;
	return carry_ecn_ipv4(ip, t->outer_ecn) ? PASS_DECAPSULATED : DROP_TUNNEL_CONGESTION;
}

/* An Ethernet header with the most tags that are followed. */
struct link_header {
	struct ethhdr eth;
	struct vlan_header tag[VLAN_TAGS];
} __attribute__((packed));

/* Copies a link header of l3 bytes whose last ethertype is set to type. */
step bool copy_link(void *to, const void *from, const void *end, u32 l3, __be16 type)
{
	if (from + sizeof(struct link_header) > end)
		return false;
	/* The compiler must not see that the next check implies the last: the verifier does not. */
	asm volatile("" : "+r"(to));
	if (to + sizeof(struct link_header) > end)
		return false;
	struct link_header *link = to;
	const struct link_header *old = from;

	link->eth = old->eth;
	if (l3 == sizeof(struct ethhdr)) {
		link->eth.h_proto = type;
		return true;
	}
	link->tag[0] = old->tag[0];
	if (l3 == sizeof(struct ethhdr) + sizeof(struct vlan_header)) {
		link->tag[0].protocol = type;
		return true;
	}
	link->tag[1] = old->tag[1];
	link->tag[1].protocol = type;
	return true;
}

/* Moves the link header, tags included, up to the inner IP header. */
step enum decap_reason take_out(struct xdp_md *ctx, const struct tunnel *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__be16 type = t->inner_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	u32 outer = (t->inner - t->l3) & 0x3f;
	/* The outer header is no shorter than 20 bytes: the copies do not overlap beyond a tag. */
	if (!copy_link(data + outer, data, end, t->l3, type))
		return DROP_TUNNEL_MALFORMED;
	if (bpf_xdp_adjust_head(ctx, outer))
		return DROP_TUNNEL_INTERNAL;
	return PASS_DECAPSULATED;
}

step enum decap_reason decapsulate(struct xdp_md *ctx)
{
	struct tunnel t = {};
	enum decap_reason reason;

	if (!parse_outer(ctx, &t))
		return PASS_NOT_TUNNEL;
	if (!from_balancer(&t))
		return PASS_NOT_BALANCER;
	reason = judge_inner(ctx, &t);
	return reason == PASS_DECAPSULATED ? take_out(ctx, &t) : reason;
}

SEC("xdp.frags")
int steelyard_decap(struct xdp_md *ctx)
{
	u32 reason = decapsulate(ctx);
	u64 *count = bpf_map_lookup_elem(&decap_reasons, &reason);

	if (count)
		++*count;
	return reason >= DROP_TUNNEL_MALFORMED ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
