// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The packet path: parse -> VIP -> slot -> backend -> rewrite -> transmit.
 * Each step is a header of its own. Every step decides; steelyard() acts once.
 */
#include "answer.h"
#include "count.h"
#include "hash.h"
#include "maps.h"
#include "parse.h"
#include "reset.h"
#include "rewrite.h"
#include "slot.h"
#include "types.h"
#include "vip.h"

/* Sends the rewritten packet out of the backend's interface. */
step enum reason transmit(struct xdp_md *ctx, const struct backend *backend)
{
	if (backend->ifindex == ctx->ingress_ifindex)
		return TX_FORWARDED;
	if (bpf_redirect_map(&egress, backend->ifindex, 0) != XDP_REDIRECT)
		return DROP_UNRESOLVED;
	return REDIRECT_FORWARDED;
}

step enum reason forward(struct xdp_md *ctx, const struct packet *pkt, const struct vip_entry *vip)
{
	u32 pool_index = vip->pool, index;
	struct pool *pool = bpf_map_lookup_elem(&pools, &pool_index);
	struct backend *backend;
	enum reason reason;

	if (!pool)
		return DROP_INTERNAL;
	count_packet(&vip_counters, vip->vip, pkt);
	index = choose_backend(pool, vip, pkt);
	if (index == OWNER_RESET && pkt->protocol == IPPROTO_TCP)
		return answer_reset(ctx, pkt->l3, pkt->l4, pkt->l3 + pkt->length, pkt->ipv6);
	if (index < OWNER_FIRST)
		return DROP_NO_BACKEND;
	backend = bpf_map_lookup_elem(&backends, &index);
	if (!backend)
		return DROP_INTERNAL;
	reason = rewrite(ctx, pkt, backend, vip->mode);
	if (reason == TX_FORWARDED)
		reason = transmit(ctx, backend);
	if (verdict(reason) != XDP_DROP)
		count_packet(&backend_counters, index, pkt);
	return reason;
}

/* What becomes of a packet that is not a flow: its address decides whether it is ours. */
step enum reason refuse(const struct packet *pkt, enum parsed parsed)
{
	if (parsed == PARSED_NOT_IP)
		return PASS_NOT_IP;
	if (parsed == PARSED_OTHER || !for_vip_address(pkt))
		return PASS_NOT_VIP;
	switch (parsed) {
	case PARSED_TRUNCATED:
		return DROP_TRUNCATED;
	case PARSED_EXTENSION_HEADERS:
		return DROP_EXTENSION_HEADERS;
	case PARSED_FRAGMENT:
		return DROP_FRAGMENT;
	default:
		return DROP_MALFORMED;
	}
}

step enum reason decide(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt);
	struct vip_entry *vip;

	if (parsed == PARSED_ECHO)
		return for_vip_address(&pkt) ? answer_echo(ctx, pkt.l3, pkt.l4, pkt.ipv6) :
					       PASS_NOT_VIP;
	if (parsed != PARSED_FLOW)
		return refuse(&pkt, parsed);
	vip = find_vip(&pkt);
	return vip ? forward(ctx, &pkt, vip) : PASS_NOT_VIP;
}

SEC("xdp.frags")
int steelyard(struct xdp_md *ctx)
{
	return leave(decide(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
