/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The program that packets of VIPs with SYN cookies are handed to, if they have to do with
 * those (syn_ask.h), before they go the way of all packets that are translated:
 *
 * - a SYN above the VIP's rate is answered with a cookie, and forgotten;
 * - the packet that returns a valid cookie makes a splice, and becomes the client's SYN, and
 *   so does all that the client sends until a backend has answered that;
 * - the backend's SYN-ACK becomes the acknowledgement that opens the client's window;
 * - of all that follows, sequence numbers are shifted by the splice's difference.
 */
#pragma once

#include "nat_program.h"
#include "splice_segment.h"

/* Not a reason: the packet goes its way. */
#define GO_ON REASONS

/*
 * Whether a client's packet may return a cookie, which takes a hash to know. What makes one
 * valid is its difference to the sequence number: within a connection of which both ends
 * have sent as much as the other, as at its begin, all packets return it.
 */
step bool may_return_cookie(const struct packet *pkt, const struct course *c,
			    const struct splice *s, u64 session)
{
	const struct tcphdr *tcp = (const void *)c->head.tcp;
	u32 seq = bpf_ntohl(tcp->seq);

	if (!is_bare(pkt) || tcp->syn || !tcp->ack || !expects_cookies(c->vip))
		return false;
	if (s &&
	    (tcp->ack_seq == bpf_htonl(s->cookie + 1) || (seq != s->asked + 1 && seq != s->asked)))
		return false;
	return c->mode != MODE_FULLNAT || may_begin_anew(session);
}

/* Answers a SYN above the rate; what it begins is counted when it has begun. */
step enum reason answer_syn(struct xdp_md *ctx, struct packet *pkt, struct course *c,
			    struct splice *s, u64 session)
{
	s64 cookie;

	pkt->opener = false;
	count_for_vip(c->vip, pkt);
	/* A backend that has answered will do so again by itself. */
	if (closes(pkt) || pkt->fragment || (session && !may_begin_anew(session)))
		return DROP_SYN_FLOOD;
	cookie = make_cookie(pkt->ipv6);
	if (cookie < 0)
		return DROP_SYN_FLOOD;
	note_cookie(c->vip);
	if (s)
		s->asked = bpf_ntohl(tcp_of(c)->seq);
	return answer_cookie(ctx, pkt->l3, pkt->l4, cookie, pkt->ipv6);
}

/* Makes a client's packet the SYN of its splice. */
step enum reason send_syn(struct xdp_md *ctx, const struct packet *pkt, struct course *c,
			  const struct splice *s)
{
	c->cookie = s->cookie;
	c->next = SYN_SPLICED;
	return become_syn(ctx, pkt->l3, pkt->l4, s->isn, pkt->ipv6) ? GO_ON : DROP_NO_HEADROOM;
}

/* A client's SYN. */
step enum reason meet_syn(struct xdp_md *ctx, struct packet *pkt, struct course *c,
			  struct splice *s, u64 session)
{
	/* That of a splice was late, or came twice. */
	if (s && s->isn == bpf_ntohl(tcp_of(c)->seq))
		return splice_flags(s) & SPLICE_ANSWERED ? GO_ON : send_syn(ctx, pkt, c, s);
	if (!syn_allowed(c->vip))
		return answer_syn(ctx, pkt, c, s, session);
	/* One that is in use stays: what follows is shifted by it, both ways alike. */
	if (s && (!(splice_flags(s) & SPLICE_ANSWERED) || splice_flags(s) & SPLICE_ENDED))
		bpf_map_delete_elem(&splices, &c->client);
	return GO_ON;
}

/* A client's packet that returns a valid cookie. */
step enum reason begin_splice(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	struct splice s = {
		.isn = bpf_ntohl(tcp_of(c)->seq) - 1,
		.cookie = bpf_ntohl(tcp_of(c)->ack_seq) - 1,
		.state = (u64)tcp_of(c)->window << SPLICE_WINDOW_SHIFT,
	};

	if (bpf_map_update_elem(&splices, &c->client, &s, BPF_ANY))
		return DROP_INTERNAL;
	return send_syn(ctx, pkt, c, &s);
}

/* A client's packet. */
step enum reason meet_client(struct xdp_md *ctx, struct packet *pkt, struct course *c)
{
	u64 session = 0;
	struct splice *s = bpf_map_lookup_elem(&splices, &c->client);

	if (c->mode == MODE_FULLNAT)
		session =
			session_state(&c->from, flow_hash(pkt->addresses, pkt->ports, IPPROTO_TCP));
	/* The session is of another connection than the splice. */
	if (s && c->mode == MODE_FULLNAT && splice_flags(s) & SPLICE_ANSWERED &&
	    !(session & NAT_FLAG(NAT_SPLICED)))
		s = NULL;
	if (pkt->opener)
		return meet_syn(ctx, pkt, c, s, session);
	if (may_return_cookie(pkt, c, s, session) && returns_cookie(pkt->ipv6))
		return begin_splice(ctx, pkt, c);
	if (!s)
		return session & NAT_FLAG(NAT_SPLICED) ? refuse_connection(ctx, pkt) : GO_ON;
	if (!(splice_flags(s) & SPLICE_ANSWERED))
		return resets(pkt) || pkt->fragment ? GO_ON : send_syn(ctx, pkt, c, s);
	if (!tcp_of(c)->ack)
		return GO_ON;
	return shift_number(ctx, pkt->l4, offsetof(struct tcphdr, ack_seq), s->state) ?
		       GO_ON :
		       DROP_INTERNAL;
}

/* What a backend says first of a splice's connection. */
step enum reason meet_answer(struct xdp_md *ctx, const struct packet *pkt, struct course *c,
			     struct splice *s)
{
	u32 by = bpf_ntohl(tcp_of(c)->seq) - s->cookie;
	u64 state = s->state;

	if (!tcp_of(c)->ack || tcp_of(c)->ack_seq != bpf_htonl(s->isn + 1) ||
	    !(tcp_of(c)->syn | resets(pkt)))
		/* It is of an older connection: so would its client answer (RFC 9293, 3.10.7.3). */
		return answer_reset(ctx, pkt->l3, pkt->l4, pkt->l3 + pkt->length, pkt->ipv6);
	if (resets(pkt))
		return shift_number(ctx, pkt->l4, offsetof(struct tcphdr, seq), 1 - by) ?
			       GO_ON :
			       DROP_INTERNAL;
	/* What it says is for all of the connection. */
	if (!is_intact(ctx, pkt->l4, pkt->l3 + pkt->length - pkt->l4, &c->from))
		return DROP_MALFORMED;
	__sync_val_compare_and_swap(&s->state, state, state | by | SPLICE_FLAG(SPLICE_ANSWERED));
	return become_ack(ctx, pkt->l3, pkt->l4, s->cookie, pkt->ipv6) ? GO_ON : DROP_INTERNAL;
}

/* Whether a backend's SYN-ACK is the one of a splice's connection, once more. */
step bool comes_again(struct course *c, const struct splice *s)
{
	return tcp_of(c)->syn && tcp_of(c)->ack && tcp_of(c)->ack_seq == bpf_htonl(s->isn + 1) &&
	       bpf_ntohl(tcp_of(c)->seq) - s->cookie == (u32)s->state;
}

/* A backend's packet. */
step enum reason meet_backend(struct xdp_md *ctx, const struct packet *pkt, struct course *c)
{
	struct splice *s = bpf_map_lookup_elem(&splices, &c->client);

	/* It is forgotten: its numbers mean nothing to the client. */
	if (!s)
		return c->mode == MODE_FULLNAT ? answer_reset(ctx, pkt->l3, pkt->l4,
							      pkt->l3 + pkt->length, pkt->ipv6) :
						 GO_ON;
	if (!(splice_flags(s) & SPLICE_ANSWERED))
		return pkt->fragment ? GO_ON : meet_answer(ctx, pkt, c, s);
	if (comes_again(c, s) && !pkt->fragment)
		return answer_syn_ack(ctx, pkt->l3, pkt->l4, s->state >> SPLICE_WINDOW_SHIFT,
				      pkt->ipv6);
	if (closes(pkt))
		__sync_fetch_and_or(&s->state, SPLICE_FLAG(SPLICE_ENDED));
	return shift_number(ctx, pkt->l4, offsetof(struct tcphdr, seq), -(u32)s->state) ?
		       GO_ON :
		       DROP_INTERNAL;
}

/* Sends a packet its way, as it is by now. */
step void go_on_with(struct xdp_md *ctx, struct packet *pkt)
{
	if (pkt->fragment)
		bpf_tail_call(ctx, &parts, PART_NAT_FRAGMENT);
	*pkt = (struct packet){};
	if (parse(ctx, pkt) == PARSED_FLOW && !pkt->fragment) {
		hand_over(pkt, find_vip(pkt));
		bpf_tail_call(ctx, &parts, PART_NAT);
	}
}

SEC("xdp.frags")
int steelyard_syn(struct xdp_md *ctx)
{
	struct packet pkt = {};
	enum parsed parsed = parse(ctx, &pkt);
	struct course *c = this_course();
	enum reason reason;

	if (!c || !set_out(ctx, &pkt, c) || parsed != PARSED_FLOW || pkt.protocol != IPPROTO_TCP ||
	    !load_tcp(ctx, pkt.l4, c))
		return leave(DROP_INTERNAL);
	c->next = SYN_SEEN;
	reason = c->syn == SYN_FROM_CLIENT ? meet_client(ctx, &pkt, c) : meet_backend(ctx, &pkt, c);
	if (reason != GO_ON) {
		c->next = SYN_UNSEEN;
		return leave(reason);
	}
	go_on_with(ctx, &pkt);
	c->next = SYN_UNSEEN;
	return leave(DROP_INTERNAL);
}
