// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet path: parse -> VIP -> slot -> backend -> rewrite -> transmit.
 * Each step is a header of its own. Every step decides; steelyard() acts once.
 */
#include "answer.h"
#include "choose.h"
#include "count.h"
#include "fragment.h"
#include "guard.h"
#include "icmp.h"
#include "maps.h"
#include "nat_program.h"
#include "parse.h"
#include "parts.h"
#include "plain.h"
#include "quoted.h"
#include "reset.h"
#include "rewrite.h"
#include "syn_program.h"
#include "types.h"
#include "vip.h"

/* Finds the backend of a packet for a VIP. Returns TX_FORWARDED, or why there is none. */
step enum reason route_to(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			  struct route *route)
{
	u32 pool_index = vip->pool;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_index);
	enum reason reason = guard(ctx, pkt, vip->vip, vip->flags);

	if (reason != TX_FORWARDED)
		return reason;
	if (!pool)
		return rarely(DROP_INTERNAL);
	route->vip = vip->vip;
	route->mode = vip->mode;
	route->backend = choose_backend(ctx, pool, vip, pkt);
	/* Fragments of an ICMP error are not those of the flow that it is about. */
	if (pkt->fragment && !pkt->quoted)
		keep_together(pkt, route, vip->flags & VIP_HASHES_FRAGMENTS);
	return TX_FORWARDED;
}

/* Sends the rewritten packet out of the backend's interface. */
step enum reason transmit(struct xdp_md *ctx, const struct backend *backend)
{
	if (backend->ifindex == ctx->ingress_ifindex)
		return TX_FORWARDED;
	if (bpf_redirect_map(&egress, backend->ifindex, 0) != XDP_REDIRECT)
		return rarely(DROP_UNRESOLVED);
	return REDIRECT_FORWARDED;
}

/* Sends a packet its way. */
step enum reason send(struct xdp_md *ctx, const struct packet *pkt, const struct route *route)
{
	u32 index = route->backend;
	struct backend *backend;
	enum reason reason;

	count_for_vip(route->vip, pkt);
	if (index == OWNER_RESET && pkt->protocol == IPPROTO_TCP && !pkt->fragment && !pkt->quoted)
		return answer_reset(ctx, pkt->l3, pkt->l4, pkt->l3 + pkt->length, pkt->ipv6);
	if (index < OWNER_FIRST)
		return rarely(DROP_NO_BACKEND);
	backend = bpf_map_lookup_elem(&backends, &index);
	if (!backend)
		return rarely(index == OWNER_FULL ? DROP_LIMIT_BACKEND : DROP_INTERNAL);
	reason = rewrite(ctx, pkt, backend, route);
	if (reason == DROP_TOO_BIG || reason == DROP_TTL_EXCEEDED)
		return tell(ctx, pkt, reason, backend->mtu - outer_length(backend, route->mode));
	if (reason == TX_FORWARDED)
		reason = transmit(ctx, backend);
	if (verdict(reason) != XDP_DROP)
		count_for_backend(index, pkt);
	return reason;
}

/* What becomes of a packet of a flow that is no VIP's, perhaps to a VIP's address. */
step enum reason leave_to_kernel(struct xdp_md *ctx, const struct packet *pkt)
{
	enum reason reason = guard_address(ctx, pkt);

	return reason == TX_FORWARDED ? PASS_NOT_VIP : reason;
}

/* What becomes of a packet that is about no flow: its address decides whether it is ours. */
step enum reason refuse(struct xdp_md *ctx, const struct packet *pkt, enum parsed parsed)
{
	enum reason reason;

	if (parsed == PARSED_NOT_IP)
		return PASS_NOT_IP;
	if (parsed == PARSED_OTHER || !for_vip_address(pkt))
		return PASS_NOT_VIP;
	switch (parsed) {
	case PARSED_ECHO:
		/* In fragments it is the kernel's: half an answer helps nobody. */
		if (pkt->fragment)
			return PASS_NOT_VIP;
		reason = screen(ctx, pkt);
		if (reason)
			return reason;
		reason = guard_address(ctx, pkt);
		if (reason != TX_FORWARDED)
			return reason;
		return answer_echo(ctx, pkt->l3, pkt->l4, pkt->ipv6);
	case PARSED_TRUNCATED:
		return DROP_TRUNCATED;
	case PARSED_EXTENSION_HEADERS:
		return DROP_EXTENSION_HEADERS;
	default:
		return DROP_MALFORMED;
	}
}

/* Not a reason: the packet is for the program that translates. */
#define TRANSLATE REASONS

/* Finds the way of a packet whose VIP is known. */
step enum reason route_in_mode(struct xdp_md *ctx, struct packet *pkt, const struct vip_entry *vip,
			       struct route *route)
{
	return vip->mode >= MODE_NAT ? TRANSLATE : route_to(ctx, pkt, vip, route);
}

/* What becomes of a part of a flow that is not for the address of a VIP. */
step enum reason not_for_vip(const struct packet *pkt)
{
	return may_be_reply(pkt) ? TRANSLATE : PASS_NOT_VIP;
}

/* Finds the way of a fragment that does not tell its VIP. */
step enum reason route_fragment(struct xdp_md *ctx, struct packet *pkt, struct route *route)
{
	struct vip_entry *vip;
	enum reason reason;

	if (!for_vip_address(pkt))
		return not_for_vip(pkt);
	reason = follow_fragments(pkt, route);
	if (reason == TX_FORWARDED && route->mode >= MODE_NAT)
		return TRANSLATE;
	if (reason == TX_FORWARDED)
		return guard(ctx, pkt, route->vip, VIP_GUARDED);
	if (reason != PASS_NOT_IP)
		return reason;
	if (!may_be_flow(pkt))
		return PASS_NOT_VIP;
	vip = find_fragment_vip(pkt);
	return vip ? route_in_mode(ctx, pkt, vip, route) : DROP_FRAGMENT_EARLY;
}

/* Finds the way of a part of a flow. */
step enum reason route_part(struct xdp_md *ctx, struct packet *pkt, enum parsed parsed,
			    struct route *route)
{
	struct vip_entry *vip;
	enum reason reason;

	if (parsed == PARSED_LATER_FRAGMENT)
		return route_fragment(ctx, pkt, route);
	if (parsed == PARSED_ICMP_ERROR) {
		if (!for_vip_address(pkt))
			return not_for_vip(pkt);
		reason = follow_quoted(ctx, pkt);
		if (reason != TX_FORWARDED)
			return reason;
	} else if (parsed != PARSED_FLOW) {
		return refuse(ctx, pkt, parsed);
	}
	vip = find_vip(pkt);
	if (vip)
		return route_in_mode(ctx, pkt, vip, route);
	if (!for_vip_address(pkt))
		return not_for_vip(pkt);
	if (pkt->fragment && !pkt->quoted)
		pass_together(pkt);
	return leave_to_kernel(ctx, pkt);
}

/* Calls the program that translates such packets. */
step void translate(struct xdp_md *ctx, const struct packet *pkt, enum parsed parsed)
{
	if (parsed == PARSED_ICMP_ERROR) {
		bpf_tail_call(ctx, &parts, PART_NAT_ERROR);
	} else if (pkt->fragment) {
		bpf_tail_call(ctx, &parts, PART_NAT_FRAGMENT);
	} else {
		hand_over(pkt, find_vip(pkt));
		bpf_tail_call(ctx, &parts, PART_NAT);
	}
}

/* What is not plain: the whole path again. */
SEC("xdp.frags")
int steelyard_part(struct xdp_md *ctx)
{
	struct packet pkt = {};
	struct route route = {};
	enum parsed parsed = parse(ctx, &pkt);
	enum reason reason = route_part(ctx, &pkt, parsed, &route);

	if (reason == TRANSLATE) {
		translate(ctx, &pkt, parsed);
		reason = DROP_INTERNAL;
	}
	return leave(reason == TX_FORWARDED ? send(ctx, &pkt, &route) : reason);
}

step enum reason decide(struct xdp_md *ctx)
{
	struct packet pkt = {};
	struct route route = {};
	enum plain plain = parse_plain(ctx, &pkt);
	struct vip_entry *vip;
	enum reason reason;

	if (plain == NOT_IP)
		return PASS_NOT_IP;
	if (plain == NOT_PLAIN) {
		bpf_tail_call(ctx, &parts, PART_NOT_PLAIN);
		return DROP_INTERNAL;
	}
	vip = find_vip(&pkt);
	if (!vip) {
		reason = leave_to_kernel(ctx, &pkt);
		if (reason != PASS_NOT_VIP || !may_be_reply(&pkt))
			return reason;
	}
	if (!vip || vip->mode >= MODE_NAT) {
		hand_over(&pkt, vip);
		bpf_tail_call(ctx, &parts, PART_NAT);
		return DROP_INTERNAL;
	}
	reason = route_to(ctx, &pkt, vip, &route);
	return reason == TX_FORWARDED ? send(ctx, &pkt, &route) : reason;
}

SEC("xdp.frags")
int steelyard(struct xdp_md *ctx)
{
	enum reason reason = decide(ctx);

	/* Twice, so that nearly all packets do not look for what becomes of them. */
	return reason == TX_FORWARDED ? leave(TX_FORWARDED) : leave(reason);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
