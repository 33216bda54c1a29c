/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The path of packets of VIPs that translate, in both directions: to a backend, and
 * back to the client in the VIP's name.
 */
#pragma once

#include "answer.h"
#include "carry.h"
#include "choose.h"
#include "connection.h"
#include "count.h"
#include "fragment.h"
#include "guard.h"
#include "icmp.h"
#include "quoted.h"
#include "reset.h"
#include "splice.h"
#include "vip.h"

/* Where the headers of a packet are in one piece, as the kernel's functions take them. */
struct head {
	u64 ip[5];
	u32 tcp[5];
	u32 reserved;
};

/* What steelyard_syn is asked, and what it has found. */
enum syn_course {
	SYN_UNSEEN,
	SYN_FROM_CLIENT,
	SYN_FROM_BACKEND,
	SYN_SEEN,                       /* the packet goes its way */
	SYN_SPLICED = NAT_FACT_SPLICED, /* the same, and it has become the SYN of a splice */
};

/* From a course to what it makes of a translation's flags, without a path for each. */
#define SYN_TO_NAT_FLAG (NAT_SPLICED / SYN_SPLICED)

/* What becomes of a packet of a VIP that translates. */
struct course {
	struct tuple from, to;
	struct tuple outer, outer_to; /* addresses of an ICMP error about it */
	struct tuple quoted_tuple;    /* as it quotes them */
	struct quoted quoted;
	struct shape shape;
	struct ip_fields quoted_ip, outer_ip;
	struct hop hop;
	u32 backend; /* index of its record, or of nobody */
	u32 index;   /* of its translation, NAT_NONE if it has none */
	u64 state;   /* of the translation, as it was read */
	struct head head;
	struct tuple client; /* of the client's packets, where a splice is looked for */
	u32 cookie;          /* of the splice whose SYN it is */
	u8 next;             /* enum syn_course: told by one program to the next, */
	u8 syn;              /* and what this one was told */
	u32 vip;             /* index of its counters, and its mode */
	u8 mode;
	struct vip_entry entry; /* of the VIP that the packet is for; no mode: it is for none */
	struct packet packet;   /* what is known of it */
};

/* One for each CPU: the stack has no room for it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct course);
} courses SEC(".maps");

step struct course *this_course(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&courses, &zero);
}

/* Leaves what is known of a packet to the program that is called next. */
step void hand_over(const struct packet *pkt, const struct vip_entry *vip)
{
	struct course *c = this_course();

	if (!c)
		return;
	c->packet = *pkt;
	c->entry.mode = MODE_NONE;
	if (vip)
		c->entry = *vip;
}

/* What another program has left, or this one: the verifier knows nothing of either. */
step void recall(struct packet *pkt, const struct course *c)
{
	*pkt = c->packet;
	pkt->l3 &= L3_MASK;
	pkt->l4 &= L4_MASK;
}

/* Carries a packet along its course: fragments by a function of their own. */
step enum reason carry_packet(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	if (!pkt->fragment)
		return carry(ctx, pkt, &c->from, &c->to, &c->hop);
	set_shape(pkt, &c->shape);
	return carry_fragment(ctx, &c->shape, &c->from, &c->to, &c->hop);
}

step void hop_to_backend(struct hop *hop, const struct backend *b)
{
	const u32 *mac = (const void *)b->mac;

	hop->mac[0] = mac[0];
	hop->mac[1] = mac[1];
	hop->mac[2] = mac[2];
	hop->ifindex = b->ifindex;
	hop->vlan = b->vlan;
	hop->mtu = b->mtu;
}

/* TCP of a connection that nobody knows is reset, so that its client does not wait. */
step enum reason refuse_connection(struct xdp_md *ctx, const struct packet *pkt)
{
	if (pkt->protocol != IPPROTO_TCP || resets(pkt) || pkt->fragment || pkt->quoted ||
	    !icmp_cost || !allowed())
		return DROP_NO_CONNECTION;
	return answer_reset(ctx, pkt->l3, pkt->l4, pkt->l3 + pkt->length, pkt->ipv6);
}

step u32 nat_facts(const struct packet *pkt, const struct vip_entry *vip, const struct backend *b,
		   u8 syn)
{
	return (u32)vip->vip << NAT_FACT_VIP_SHIFT | (b->outer_ipv4 ? NAT_FACT_IPV4 : 0) |
	       (pkt->protocol == IPPROTO_TCP ? NAT_FACT_TCP : 0) | (syn & NAT_FACT_SPLICED) |
	       (pkt->l3 > sizeof(struct ethhdr) ? NAT_FACT_TAG : 0);
}

/*
 * Reads state and backend of the course's translation; false if it has become another
 * connection's since it was found.
 */
step bool read_connection(struct course *c)
{
	struct translation *t = translation_at(c->index);

	if (!t)
		return false;
	c->state = *(volatile u64 *)&t->state;
	c->backend = flow_backend(c->state);
	return is_of(t, &c->from) &&
	       nat_generation(*(volatile u64 *)&t->state) == nat_generation(c->state);
}

#define NAT_BEGIN_TRIES 3

/* Begins a connection to the backend that the slot's owner is. The course knows the former one. */
step enum reason begin(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
		       struct course *c)
{
	u32 pool_index = vip->pool;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_index);
	struct backend *b;
	u32 facts, backend, turn = turn_of(home_of(&c->from, pkt->hash, pkt->protocol), c->index);

	c->index = NAT_NONE;
	if (!pool)
		return DROP_INTERNAL;
	backend = choose_backend(ctx, pool, vip, pkt);
	c->backend = backend;
	if (backend < OWNER_FIRST)
		return TX_FORWARDED;
	b = bpf_map_lookup_elem(&backends, &backend);
	if (!b)
		return DROP_INTERNAL;
	if (!tells_way_back(ctx, pkt->l3) || !(b->modes & 1 << MODE_FULLNAT))
		return DROP_UNRESOLVED;
	if (b->able & LIMITED && !take_place(backend, false))
		return DROP_LIMIT_BACKEND;
	facts = nat_facts(pkt, vip, b, c->syn) | (turn & NAT_FACT_TURN) << NAT_FACT_TURN_SHIFT;
	for (int i = 0; i < NAT_BEGIN_TRIES && c->index >= NAT_LOST; i++) {
		c->index = open_connection(ctx, &c->from, pkt->hash, backend, facts);
		if (c->index == NAT_NONE)
			break;
		/* One that another CPU has begun may have another backend, or have ended. */
		if (c->index != NAT_LOST && read_connection(c)) {
			pkt->opener = true;
			return TX_FORWARDED;
		}
		c->index = NAT_LOST;
	}
	c->index = NAT_NONE;
	if (b->able & LIMITED)
		give_place(backend);
	count_flow(NAT_EXHAUSTED);
	return DROP_NO_NAT_PORT;
}

/* What a client's packet says of its connection. */
step u64 client_flags(const struct packet *pkt, u8 syn)
{
	if (pkt->opener)
		return (u64)(syn & SYN_SPLICED) * SYN_TO_NAT_FLAG;
	if (!closes(pkt))
		return NAT_SPOKEN;
	return resets(pkt) ? NAT_RESET : NAT_SPOKEN | NAT_CLIENT_CLOSED;
}

/* Whether the connection ID of a QUIC packet names another backend than the connection's. */
step bool names_another(struct xdp_md *ctx, const struct packet *pkt, const struct vip_entry *vip,
			u32 backend)
{
	u32 named;

	if (!(vip->flags & VIP_QUIC))
		return false;
	named = quic_peek(ctx, pkt->l4, vip->vip, vip->terms);
	return named && named != backend && ability(named) & KEEPS_FLOWS;
}

/* Goes on with a connection. Returns false if its client has to begin another one. */
step bool go_on(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
		struct course *c)
{
	struct translation *t = translation_at(c->index);

	if (!t || !connection_stays(pkt, c->state, ability(c->backend)))
		return false;
	if (pkt->quoted)
		return true;
	/* The port is used again, by somebody else behind the same address perhaps. */
	if (names_another(ctx, pkt, vip, c->backend))
		return false;
	if (pkt->opener && vip->flags & VIP_CLAMPS_MSS && pkt->protocol == IPPROTO_TCP)
		clamp_mss(ctx, pkt->l4, mss_of(vip->terms));
	if (tells_way_back(ctx, pkt->l3))
		note_hop(ctx, t, pkt->l3 > sizeof(struct ethhdr));
	see_connection(t, c->state, client_flags(pkt, c->syn));
	return true;
}

/* Finds the translation of a client's packet to a fullnat VIP, or makes it. */
step enum reason find_connection(struct xdp_md *ctx, struct packet *pkt,
				 const struct vip_entry *vip, struct course *c)
{
	bool begins = !pkt->quoted && (pkt->protocol == IPPROTO_UDP || pkt->opener);

	/* A mapped address on the wire is not the IPv4 address, and nobody's (RFC 4038, 4.2). */
	if (pkt->ipv6 && is_mapped(&c->from.source))
		return DROP_MALFORMED;
	pkt->hash = flow_hash(pkt->addresses, pkt->ports, pkt->protocol);
	c->index = find_session(&c->from, pkt->hash, pkt->protocol, NAT_NONE);
	if (c->index != NAT_NONE && read_connection(c)) {
		if (go_on(ctx, pkt, vip, c))
			return TX_FORWARDED;
		if (!pkt->quoted)
			close_connection(&c->from, pkt->hash, c->index, c->state);
	}
	if (!begins)
		return DROP_NO_CONNECTION;
	return begin(ctx, pkt, vip, c);
}

/* Who gets a client's packet to a nat VIP. */
step enum reason find_by_slot(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			      struct course *c)
{
	u32 pool_index = vip->pool;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_index);

	if (!pool)
		return DROP_INTERNAL;
	c->index = NAT_NONE;
	c->backend = choose_backend(ctx, pool, vip, pkt);
	return TX_FORWARDED;
}

/* Who gets a client's packet. */
step enum reason course_to_backend(struct xdp_md *ctx, struct packet *pkt,
				   const struct vip_entry *vip, struct course *c)
{
	return vip->mode == MODE_FULLNAT ? find_connection(ctx, pkt, vip, c) :
					   find_by_slot(ctx, pkt, vip, c);
}

/* The tuple of a packet as its backend is to see it. */
step void to_backend(struct course *c, const struct backend *b, u32 ports)
{
	__be16 source = ports, port = b->port ? b->port : ports >> 16;

	c->to.source = c->from.source;
	if (c->index != NAT_NONE) {
		c->to.source = nat_source(c->index);
		source = nat_port(c->index);
	}
	c->to.destination = b->outer_destination;
	c->to.ports = pair_ports(source, port);
}

step enum reason transmit_to_backend(struct xdp_md *ctx, const struct hop *hop)
{
	if (hop->ifindex == ctx->ingress_ifindex)
		return TX_FORWARDED;
	if (bpf_redirect_map(&egress, hop->ifindex, 0) != XDP_REDIRECT)
		return DROP_UNRESOLVED;
	return REDIRECT_FORWARDED;
}

/*
 * Resets a client's connection. The SYN of a splice is not what the client has sent, which
 * takes a reset for one only where the acknowledgement was that it has sent.
 */
step enum reason reset_client(struct xdp_md *ctx, const struct packet *pkt, const struct course *c)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct tcphdr *tcp = data + (pkt->l4 & L4_MASK);

	if ((void *)(tcp + 1) > end)
		return DROP_INTERNAL;
	if (c->syn == SYN_SPLICED) {
		tcp->ack = 1;
		tcp->ack_seq = bpf_htonl(c->cookie + 1);
	}
	return answer_reset(ctx, pkt->l3, pkt->l4, pkt->l3 + pkt->length, pkt->ipv6);
}

/* Sends a client's packet to its backend. */
step enum reason send_to_backend(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u32 index = c->backend;
	struct backend *b;
	enum reason reason;
	int more;

	count_for_vip(c->vip, pkt);
	if (index == OWNER_RESET && pkt->protocol == IPPROTO_TCP && !pkt->fragment)
		return reset_client(ctx, pkt, c);
	if (index < OWNER_FIRST)
		return DROP_NO_BACKEND;
	b = bpf_map_lookup_elem(&backends, &index);
	if (!b)
		return index == OWNER_FULL ? DROP_LIMIT_BACKEND : DROP_INTERNAL;
	if (!(b->modes & 1 << (c->mode & 7)))
		return DROP_UNRESOLVED;
	to_backend(c, b, pkt->ports);
	hop_to_backend(&c->hop, b);
	more = growth(pkt, &c->to);
	if (pkt->ttl <= 1)
		return tell(ctx, pkt, DROP_TTL_EXCEEDED, 0);
	if ((int)pkt->length + more > c->hop.mtu)
		return tell(ctx, pkt, DROP_TOO_BIG, c->hop.mtu - more);
	reason = carry_packet(ctx, pkt, c);
	if (reason != TX_FORWARDED)
		return reason;
	reason = transmit_to_backend(ctx, &c->hop);
	if (verdict(reason) != XDP_DROP)
		count_for_backend(index, pkt);
	return reason;
}
