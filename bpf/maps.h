/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the control plane tells the packet path, and what the packet path
 * counts. The Go twins of these types are generated from here. Sizes given as 1
 * are set at load.
 */
#pragma once

#include "reasons.h"
#include "sourcelist.h"
#include "types.h"

/*
 * One key of a VIP: where packets for it are addressed to. One that has VIP_RANGES
 * stands for ranges of ports, each with an entry of its own: it has their number
 * as vip and the index of the first one as terms, and nothing else.
 */
struct vip_entry {
	struct address address;
	u32 endpoint; /* see endpoint(); 0 marks an empty entry */
	u16 vip;      /* index of its counters */
	u8 mode;      /* enum mode */
	u8 reserved;
	u16 pool;       /* from here on also a word, see vip_word() */
	u16 prior_pool; /* the pool that it had when it was last settled */
	u16 terms;      /* index of its vip_terms, of use with the flags that say so */
	u16 flags;      /* enum vip_flag */
};

enum vip_flag {
	VIP_IN_FLUX = 1, /* its pool or affinity has changed, and flows may be where that led */
	VIP_TRACKS = 2,  /* every flow is remembered */
	VIP_OPENERS = 4, /* its protocol tells which packets start a flow */
	VIP_RANGES = 8,
	VIP_AFFINE = 16,            /* terms: affinity */
	VIP_CHANGES_AFFINITY = 32,  /* terms: prior_affinity, while in flux */
	VIP_CLAMPS_MSS = 64,        /* terms: mss */
	VIP_QUIC = 128,             /* terms: server_ids */
	VIP_HASHES_FRAGMENTS = 256, /* fragments may come before their first one */
	VIP_GUARDED = 512,          /* its guard has something to say, see guard.h */
	VIP_SYN_COOKIES = 1024,     /* it answers SYNs with cookies, or has done so */
};

/* What of a VIP is more than a slot can answer. */
#define VIP_SPECIAL (VIP_AFFINE | VIP_CHANGES_AFFINITY | VIP_CLAMPS_MSS | VIP_QUIC)

/*
 * Which flows go to the same backend: those whose source addresses, masked, and
 * salt are equal. A mask_ipv4 of 0 keeps nothing together.
 */
struct affinity {
	struct address mask_ipv6;
	__be32 mask_ipv4;
	u32 salt; /* tells VIPs apart */
};

/* What few VIPs have; packets read it where a flag of the VIP says so. */
struct vip_terms {
	struct affinity affinity;
	struct affinity prior_affinity;
	u32 server_ids; /* length of server IDs, 4 bits for each configuration, 0: none */
	u16 mss;        /* the largest that a client's SYN may carry on, bytes */
	u16 reserved[5];
};

_Static_assert(sizeof(struct vip_terms) == 64, "terms are one cache line");

/* A range of ports, in host byte order. Those of one key are sorted and do not overlap. */
struct port_range {
	struct vip_entry
		vip; /* first: the verifier would not have it added to a look-up's result */
	u16 first;
	u16 last;
	u32 reserved;
};

_Static_assert(sizeof(struct vip_entry) == 32, "two entries are one cache line");

/*
 * A table of VIPs: a range of the map vip_entries and the hash that gives each key an entry
 * of its own, see vip.h. It begins with the bits of the key's group, if there are groups,
 * and goes on with those of its entry.
 */
struct vip_table {
	u64 multiplier[3]; /* odd */
	u32 base;          /* first entry */
	u32 mask;          /* number of entries, less 1 */
	u8 shift;          /* 64 less the bits of group and entry together, at most 63 */
	u8 group_shift;    /* the bits of the entry; 0: there are no groups */
	u16 first_group;
	u8 wide;    /* not 0: some VIP takes any port or a range */
	u8 replies; /* not 0: some VIP is MODE_NAT, and its answers pass here */
	u8 guarded; /* not 0: some key of an address is VIP_GUARDED */
	u8 reserved;
};

#define VIP_GROUPS 8192 /* of a table, a power of two */

/* By how many entries the keys of a group lie further on, in both tables of VIPs. */
struct displacements {
	u16 of[2 * VIP_GROUPS];
};

/* Two tables: packets use one while the control plane fills the other. */
struct control {
	struct vip_table vip_table[2];
	u32 current_vip_table;
	/*
	 * The flow table's clock, in ticks, which the control plane moves. While that
	 * is away, time stands still, and no flow expires for want of its attention.
	 */
	u32 now;
	u32 idle; /* ticks after which no flow is alive any more, whatever its VIP */
	u32 reserved;
};

struct pool {
	u32 slot_base; /* first slot */
	u32 slots;
	u32 backend_base; /* index of the backend record of owner 0, were there one */
	u32 reserved;
};

/* What QUIC connection IDs of a VIP call a backend. Bytes beyond its length are 0. */
struct server_id {
	u16 vip;
	u8 config;
	u8 id[15];
};

/* A slot word: owner in bits 0 to 14, in-flux flag in bit 15, prior in bits 16 to 30. */
#define SLOT_OWNER 0x7fff
#define SLOT_IN_FLUX 0x8000
#define SLOT_PRIOR_SHIFT 16

/* Owners that are not backends. */
enum owner {
	OWNER_NONE,           /* nobody: drop */
	OWNER_RESET,          /* nobody: reset TCP, drop the rest */
	OWNER_FIRST,          /* the first backend of the pool */
	OWNER_FULL = 0xfffff, /* nobody, for the backend is full: an index that no record has */
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
	MODE_DSR_GUE,
	MODE_NAT,     /* the first one that translates */
	MODE_FULLNAT, /* source addresses as well */
};

/* What a backend may still be given. */
enum ability {
	TAKES_FLOWS = 1, /* new flows */
	KEEPS_FLOWS = 2, /* packets of the flows that it has */
	LIMITED = 4,     /* no more connections than its room has places */
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
	struct address outer_destination; /* its own address, in all modes */
	u16 outer_addresses;              /* sum of both outer addresses */
	u8 able;                          /* enum ability */
	u8 reserved;
	__be16 port; /* that it listens on where that is translated, 0: the VIP's */
	u16 reserved_more;
};

_Static_assert(sizeof(struct backend) == 64, "a backend is one cache line");

/* The connections of a backend that is LIMITED, see room.h. */
struct room {
	u64 taken;   /* places, ever */
	u64 ceiling; /* of taken: no place is free from there on */
	u64 limit;   /* by which the ceiling was set, 0: there was none */
	u64 reserved[5];
};

_Static_assert(sizeof(struct room) == 64, "the room of a backend is one cache line");

/*
 * A flow that the flow table remembers. The state is one word, so that it
 * changes in one piece: in bits 0 to 19 the tick at which the flow was last seen,
 * in 20 to 39 the index of its backend, in 40 to 55 that of its VIP, and in 56 to
 * 63 its flags.
 */
struct flow {
	u64 key; /* sealed, see seal_flow(); 0 if empty, FLOW_CLAIMED while it is written */
	u64 state;
};

#define FLOW_CLAIMED 1
#define FLOW_KEY 2
#define FLOW_TICK_MASK 0xfffff
#define FLOW_BACKEND_SHIFT 20
#define FLOW_BACKEND_MASK 0xfffff
#define FLOW_VIP_SHIFT 40
#define FLOW_FLAGS_SHIFT 56
#define FLOW_SEAL 0x00fffffffff00000ULL /* backend and VIP */

enum flow_flag {
	FLOW_ESSENTIAL = 1, /* without its entry the flow would go elsewhere */
	FLOW_CONFIRMED = 2, /* a second packet has come */
	FLOW_CLOSING = 4,   /* FIN or RST has come */
};

/*
 * The flags of a packet whose fragments the fragment table remembers, in the same
 * form as a flow, with the tick of its own clock. The lower bits are the mode. In
 * those that translate what stands for backend and VIP is what nat_part.h says.
 */
enum fragment_flag {
	FRAGMENT_MODE = 0x0f,
	FRAGMENT_EARLY = 0x10,  /* its first fragment has not come */
	FRAGMENT_PASSES = 0x20, /* its port is no VIP's: the kernel has had the first */
};

struct flow_bucket {
	struct flow flow[4];
};

_Static_assert(sizeof(struct flow_bucket) == 64, "a bucket of flows is one cache line");

/* What happens to the flow table, counted. */
enum flow_event {
	FLOW_REMEMBERED,         /* a new entry */
	FLOW_EVICTED_CLOSING,    /* a live entry gave way that was closing, */
	FLOW_EVICTED_PRIOR,      /* that only told that its flow is alive, */
	FLOW_EVICTED_EMBRYONIC,  /* that had seen one packet, */
	FLOW_EVICTED_CONNECTION, /* that was a connection: an alarm */
	FLOW_UNREMEMBERED,       /* no room for a new flow: an alarm */
	FRAGMENT_REMEMBERED,     /* a fragmented packet */
	FRAGMENT_EVICTED,        /* one whose fragments may still come gave way */
	NAT_OPENED,              /* a new translation */
	NAT_EVICTED,   /* one of a connection that had not begun, or had ended, gave way */
	NAT_EXHAUSTED, /* no port was free: an alarm */

	FLOW_EVENTS,
};

/* Flags of a translation, see translation.h. */
enum nat_flag {
	NAT_USED = 1,    /* the rest is written */
	NAT_REPLIED = 2, /* the backend has answered */
	NAT_CLIENT_CLOSED = 4,
	NAT_BACKEND_CLOSED = 8,
	NAT_RESET = 16,
	NAT_CLAIMED = 32,  /* the rest is being written; if used, another may count instead */
	NAT_SPOKEN = 64,   /* the client has sent more than what opens it */
	NAT_SPLICED = 128, /* it began with a SYN cookie, see splice.h */
};

/* Flags of a splice, see splice.h. */
enum splice_flag {
	SPLICE_ANSWERED = 1, /* the backend has taken the connection, */
	SPLICE_ENDED = 2,    /* and has nothing more to say */
};

/* The programs that the main one calls for what few packets are. */
enum part {
	PART_NOT_PLAIN,    /* whatever is not */
	PART_NAT,          /* a packet of a VIP that translates */
	PART_NAT_FRAGMENT, /* one in fragments */
	PART_NAT_ERROR,    /* an ICMP error about one */
	PART_SYN,          /* one that has to do with SYN cookies */

	PARTS,
};

/* BTF keeps only types that something has; this has the enumerations, for Go. */
const volatile struct vocabulary {
	enum reason reason;
	enum owner owner;
	enum mode mode;
	enum vip_flag vip_flag;
	enum ability ability;
	enum flow_flag flow_flag;
	enum fragment_flag fragment_flag;
	enum flow_event flow_event;
	enum nat_flag nat_flag;
	enum part part;
	enum splice_flag splice_flag;
	enum list_answer list_answer;
	enum limited limited;
	struct list_node list_node;
} vocabulary;

struct counters {
	u64 packets;
	u64 bytes;       /* of IP packets as they arrived */
	u64 connections; /* openers */
	u64 reserved;
};

/* A variable, so that its address is in the program: every packet waits for it first. */
struct control ctl SEC(".data.control");

struct displacements displacements SEC(".data.displacements");

/* The control plane's ledger of numbers. Packets never read it; it lives and dies with the maps. */
struct ledger_page {
	u64 word[512];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ledger_page);
} ledger SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct vip_entry);
} vip_entries SEC(".maps");

/* Of both tables of VIPs: while packets use one half, the control plane fills the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct port_range);
} port_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct vip_terms);
} terms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pool);
} pools SEC(".maps");

/* Indexes of backends by what QUIC connection IDs call them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct server_id);
	__type(value, u32);
} server_ids SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct room);
} rooms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct flow_bucket);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct flow_bucket);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FLOW_EVENTS);
	__type(key, u32); /* enum flow_event */
	__type(value, u64);
} flow_events SEC(".maps");

/* Interfaces to redirect to, by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u32);
} egress SEC(".maps");

/*
 * Counters of VIPs and of backends: a row for each CPU, in whole cache lines, so that no
 * two share one. Not per-CPU arrays, which find each element by a pointer of its own: with
 * many VIPs that is a second line that no cache has.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} vip_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} backend_rows SEC(".maps");

/* Counters in a row. */
const volatile u32 vip_row;
const volatile u32 backend_row;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, u32); /* enum reason */
	__type(value, u64);
} reasons SEC(".maps");

/* An address and port of a VIP, in whose name answers leave. */
struct nat_endpoint {
	struct address address;
	__be16 port; /* 0: the backend's */
	u16 vip;
	u32 flags; /* VIP_SYN_COOKIES */
};

/* Of both tables of VIPs, as port_ranges. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nat_endpoint);
} nat_endpoints SEC(".maps");

/* How many ICMP answers a CPU may still give. */
struct allowance {
	u64 last;   /* when it was last reckoned, ns of the coarse clock */
	u64 credit; /* ns */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct allowance);
} allowances SEC(".maps");
