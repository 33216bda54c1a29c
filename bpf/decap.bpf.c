// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The backend's side of dsr-ipip and dsr-gue: takes the outer headers off packets
 * that a configured balancer sent for a VIP, and leaves everything else to the
 * kernel.
 *
 * parse outer -> balancer? -> parse inner -> VIP? -> take the headers off -> pass
 */
#include "parse.h"
#include "types.h"

/* Every way out; the prefix says what becomes of the packet. */
enum decap_reason {
	PASS_NOT_TUNNEL,     /* neither IP in IP nor GUE */
	PASS_NOT_BALANCER,   /* its outer source is no configured balancer */
	PASS_NOT_OURS,       /* its inner destination is no VIP of this host */
	PASS_TUNNEL_CONTROL, /* a GUE control message */
	PASS_DECAPSULATED,
	DROP_TUNNEL_MALFORMED,   /* a balancer's packet with broken headers */
	DROP_TUNNEL_UNSUPPORTED, /* GUE with an extension, or with something else than IP inside */
	DROP_TUNNEL_CONGESTION,  /* marked congested outside, not ECN capable inside */
	DROP_TUNNEL_INTERNAL,

	DECAP_REASONS,
};

/* BTF keeps only types that something has; this has the enumeration, for Go. */
const volatile struct vocabulary {
	enum decap_reason reason;
} vocabulary;

/* The UDP port of GUE; 0 where there is none, and its code is gone. */
const volatile __be16 gue_port;

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
	u32 inner;             /* offset of what is behind it, in the end the inner one */
	int length;            /* of that, by the headers before it, bytes */
	u8 protocol;           /* of what is there */
	u8 outer_ecn;
};

/*
 * Generic UDP encapsulation (draft-ietf-intarea-gue-09, section 3), variant 0. In
 * variant 1 an IP header stands in its place; the bits of its version, 4 or 6, are
 * such that the variant reads 1 (section 4).
 */
struct gue_header {
	u8 start; /* variant (2 bits), control (1), length of the fields behind in words (5) */
	u8 protocol;
	__be16 flags; /* which fields there are */
};

#define GUE_CONTROL 0x20
#define GUE_LENGTH 0x1f

/* Offsets of inner headers: link 22, outer 60, UDP 8, GUE 128 bytes at most. */
#define INNER_MASK 0xff

step bool is_ip(u8 protocol)
{
	return protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6;
}

/* Whether what is at an offset is a datagram to the port of GUE. */
step bool is_gue(struct xdp_md *ctx, u32 at)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + (at & INNER_MASK);

	return (void *)(udp + 1) <= end && udp->dest == gue_port;
}

/* Fills in the outer header; false if the packet is neither IP in IP nor GUE. */
step bool parse_outer(struct xdp_md *ctx, struct tunnel *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet pkt = {};
	__be16 type = parse_ethernet(ctx, &pkt);

	t->l3 = pkt.l3;
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + pkt.l3;

		if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5 ||
		    ip->frag_off & (IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET))
			return false;
		t->source = map_ipv4(ip->saddr);
		t->outer_ecn = ip->tos & ECN_MASK;
		t->inner = pkt.l3 + ip->ihl * 4;
		t->length = bpf_ntohs(ip->tot_len) - ip->ihl * 4;
		t->protocol = ip->protocol;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + pkt.l3;

		if ((void *)(ip + 1) > end || ip->version != 6)
			return false;
		t->source = load_ipv6(&ip->saddr);
		/* Not valid on the wire, and past filters it would pass for a balancer's IPv4. */
		if (is_mapped(&t->source))
			return false;
		t->outer_ecn = ip->flow_lbl[0] >> 4 & ECN_MASK;
		t->inner = pkt.l3 + sizeof(*ip);
		t->length = bpf_ntohs(ip->payload_len);
		t->protocol = ip->nexthdr;
	} else {
		return false;
	}
	return is_ip(t->protocol) ||
	       (gue_port && t->protocol == IPPROTO_UDP && is_gue(ctx, t->inner));
}

step bool from_balancer(const struct tunnel *t)
{
	struct prefix key = { .length = 128 };

	__builtin_memcpy(key.address, &t->source, sizeof(key.address));
	return bpf_map_lookup_elem(&balancers, &key);
}

/*
 * Goes from the UDP header to the inner IP header; PASS_DECAPSULATED when there is
 * one.
 *
 * Flags are extensions that change what the packet means (a virtual network, a
 * fragment, an encrypted payload): whoever does not know one must drop, and we know
 * none. Words behind the header that no flag announces are private to the sender;
 * they are skipped, as the kernel does.
 *
 * The UDP checksum is not verified, whether it is there or not. Without it the
 * packet is as well protected as on a link without a tunnel, by the checksums
 * inside. Addresses, port and GUE header are held against what they must be, so a
 * flipped bit there leads nowhere, which is what RFC 6936 asks of a tunnel that
 * sends zero over IPv6. Summing up whole packets would cost more than all else here.
 */
step enum decap_reason parse_gue(struct xdp_md *ctx, struct tunnel *t)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct udphdr *udp = data + (t->inner & INNER_MASK);
	struct gue_header *gue = (void *)(udp + 1);
	int length = sizeof(*udp), datagram;

	if ((void *)(gue + 1) > end)
		return DROP_TUNNEL_MALFORMED;
	if (gue->start >> 4 == 4) {
		t->protocol = IPPROTO_IPIP;
	} else if (gue->start >> 4 == 6) {
		t->protocol = IPPROTO_IPV6;
	} else if (gue->start >> 6) {
		return DROP_TUNNEL_UNSUPPORTED;
	} else if (gue->start & GUE_CONTROL) {
		return PASS_TUNNEL_CONTROL;
	} else {
		t->protocol = gue->protocol;
		if (gue->flags || !is_ip(t->protocol))
			return DROP_TUNNEL_UNSUPPORTED;
		length += sizeof(*gue) + (gue->start & GUE_LENGTH) * 4;
	}
	datagram = bpf_ntohs(udp->len);
	if (datagram < length || datagram > t->length)
		return DROP_TUNNEL_MALFORMED;
	t->inner += length;
	t->length = datagram - length;
	return PASS_DECAPSULATED;
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
	void *inner = data + (t->inner & INNER_MASK);
	struct address destination;

	if (t->protocol == IPPROTO_IPV6) {
		struct ipv6hdr *ip = inner;

		if ((void *)(ip + 1) > end || ip->version != 6 ||
		    (int)sizeof(*ip) + bpf_ntohs(ip->payload_len) > t->length)
			return DROP_TUNNEL_MALFORMED;
		destination = load_ipv6(&ip->daddr);
		if (!bpf_map_lookup_elem(&local_vips, &destination))
			return PASS_NOT_OURS;
		return carry_ecn_ipv6(ip, t->outer_ecn) ? PASS_DECAPSULATED :
							  DROP_TUNNEL_CONGESTION;
	}
	struct iphdr *ip = inner;

	if ((void *)(ip + 1) > end || ip->version != 4 || bpf_ntohs(ip->tot_len) > t->length)
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
	__be16 type = t->protocol == IPPROTO_IPV6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	u32 outer = (t->inner - t->l3) & INNER_MASK;
	/* Outer headers are no shorter than 20 bytes: the copies do not overlap beyond a tag. */
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
	if (gue_port && t.protocol == IPPROTO_UDP) {
		reason = parse_gue(ctx, &t);
		if (reason != PASS_DECAPSULATED)
			return reason;
	}
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
