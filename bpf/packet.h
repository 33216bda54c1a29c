/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What parsing learns of a packet; from here on the path does not know the family. */
#pragma once

#include "types.h"

/* TCP flags as they stand in their byte of the header; ECE and CWR say nothing here. */
enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
	TCP_URG = 0x20,
	TCP_FLAGS = 0x3f,
};

enum fragment {
	WHOLE,
	FIRST_FRAGMENT,
	LATER_FRAGMENT, /* tells no ports */
};

struct packet {
	struct address destination;
	u64 addresses; /* both addresses folded into a word for the flow hash */
	u64 hash;      /* of the flow, or of the packet in fragments, once its way is known */
	u32 ports;     /* source and destination port, as on the wire; 0 if it tells none */
	u32 length;    /* of the IP packet, bytes */
	u32 l3; /* offset of the IP header in the frame, 0: not IP or cut off before its address */
	u32 l4; /* offset of the transport header */
	u32 quoted;      /* offset of the IP header that an ICMP error quotes, else 0 */
	u32 quoted_l4;   /* offset of the transport header that it quotes */
	u32 fragment_id; /* as on the wire */
	u8 fragment;     /* enum fragment */
	bool ipv6;
	u8 protocol; /* transport protocol */
	u8 ttl;      /* TTL or hop limit */
	u8 tos;      /* TOS or traffic class */
	bool plain;  /* see plain.h: it has been screened, and its TTL is more than 1 */
	bool opener; /* starts a flow */
	u8 flags;    /* of TCP */
};

/* Whether the packet ends its flow, */
step bool closes(const struct packet *pkt)
{
	return pkt->flags & (TCP_FIN | TCP_RST);
}

/* and at once. */
step bool resets(const struct packet *pkt)
{
	return pkt->flags & TCP_RST;
}

/* Where a packet goes. */
struct route {
	u32 backend; /* index of its record, or of nobody */
	u16 vip;     /* index of the VIP's counters */
	u8 mode;     /* enum mode */
};

/*
 * Endpoints: what a VIP key says besides the address. The port (network byte
 * order, 0 for any) in bits 0 to 15, the protocol above it. IPPROTO_RAW, which no
 * packet carries, stands for the address itself, whatever the protocol.
 */
#define ENDPOINT_ADDRESS ((u32)IPPROTO_RAW << 16)

/* With a protocol and no port: fragments, of whatever port. */
#define ENDPOINT_FRAGMENT (1u << 24)

/* Of a backend that answers, as packets show it that come from there. */
#define ENDPOINT_REPLY (1u << 25)

step u32 endpoint(u8 protocol, __be16 port)
{
	return (u32)protocol << 16 | port;
}

/* Offsets in bounds that the verifier understands; no header begins beyond. */
#define L3_MASK 0x1f
#define L4_MASK 0x3fff
