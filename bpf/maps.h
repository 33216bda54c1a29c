/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the control plane tells the packet path, and what the packet path
 * counts. The Go twins of these types are generated from here. Sizes given as 1
 * are set at load.
 */
#pragma once

#include "reasons.h"
#include "types.h"

/* One key of a VIP: where packets for it are addressed to. */
struct vip_entry {
	struct address address;
	u32 endpoint; /* see endpoint(); 0 marks an empty entry */
	u16 vip;      /* index of its counters */
	u16 pool;
	u8 mode; /* enum mode */
	u8 reserved[7];
};

struct vip_bucket {
	struct vip_entry entry[2];
};

_Static_assert(sizeof(struct vip_bucket) == 64, "a bucket is one cache line");

/* A table of VIPs: a range of the map vips and the hash that spreads keys over it. */
struct vip_table {
	u64 multiplier[3]; /* odd */
	u32 base;          /* first bucket */
	u32 shift;         /* 64 - log2 of the number of buckets, 1 to 64 buckets: 63 at most */
	u32 any_port;      /* not 0: some VIP takes any port */
	u32 reserved;
};

/* Two tables: packets use one while the control plane fills the other. */
struct control {
	struct vip_table vip_table[2];
	u32 current_vip_table;
	u32 reserved[3];
};

struct pool {
	u32 slot_base; /* first slot */
	u32 slots;
	u32 backend_base; /* index of the backend record of owner 0, were there one */
	u32 reserved;
};

/* A slot word: owner in bits 0 to 14, in-flux flag in bit 15, prior in bits 16 to 30. */
#define SLOT_OWNER 0x7fff

/* Owners that are not backends. */
enum owner {
	OWNER_NONE,  /* nobody: drop */
	OWNER_RESET, /* nobody: reset TCP, drop the rest */
	OWNER_FIRST, /* the first backend of the pool */
};

/* The kernel rounds array elements up to 8 bytes, so a map element is a line of slots. */
struct slot_line {
	u32 slot[16];
};

_Static_assert(sizeof(struct slot_line) == 64, "a line of slots is one cache line");

enum mode {
	MODE_NONE,
	MODE_DSR_L2,
	MODE_DSR_IPIP,
};

/* Everything that the rewrite needs, resolved beforehand. */
struct backend {
	u8 mac[12];         /* destination, source: the head of an Ethernet header */
	u32 ifindex;        /* 0: unresolved */
	__be16 vlan;        /* tag to put on, 0 for none */
	u16 mtu;            /* of the way to the backend: bytes of an IP packet */
	u8 modes;           /* bit per enum mode: ways in which it can be reached */
	u8 outer_ipv4;      /* outer header is IPv4, else IPv6 */
	u16 outer_checksum; /* sum of the outer IPv4 header's constant words */
	struct address outer_source;
	struct address outer_destination;
	u64 reserved;
};

_Static_assert(sizeof(struct backend) == 64, "a backend is one cache line");

/* BTF keeps only types that something has; this has the enumerations, for Go. */
const volatile struct vocabulary {
	enum reason reason;
	enum owner owner;
	enum mode mode;
} vocabulary;

struct counters {
	u64 packets;
	u64 bytes;       /* of IP packets as they arrived */
	u64 connections; /* openers */
	u64 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct vip_bucket);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pool);
} pools SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct slot_line);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct backend);
} backends SEC(".maps");

/* Interfaces to redirect to, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u32);
} egress SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} vip_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} backend_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, u32); /* enum reason */
	__type(value, u64);
} reasons SEC(".maps");
