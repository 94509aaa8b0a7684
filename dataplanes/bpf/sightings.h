/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What a sighting of a packet tells, the maps of the follower, and how addresses and arguments are read. */

#define NONE 0xffff
#define NO_HOOK 255
#define FRAGMENT 0x3fff /* the offset of a fragment, and the bit that more follow */
#define OFFSET 0x1fff
#define VXLAN_PORT 4789
#define SCTP_HEAD 12
#define VXLAN_INNER (8 + 8 + ETH_HLEN) /* the headers between the outer and the inner IP header: UDP, VXLAN, Ethernet */

static u64 (*cookie_of)(void *ctx) = (void *)174; /* bpf_get_attach_cookie */

struct layout {
	u32 skb_dev, skb_sk, skb_head, skb_data, skb_network_header, skb_mac_header, skb_mark, skb_nfct;
	u32 skb_end, shared_dataref;
	u32 dev_net, dev_ifindex, dev_name, net_inum, sock_net;
	u32 state_hook, state_pf, state_net, pkt_skb, pkt_state;
	u32 chain_table, chain_name, table_name, xt_table_name;
	u32 chain_list, chain_rules, chain_next_rules, table_chains, xt_private, xt_entries, xt_size, target_data,
		target_state;
	u32 counted;               /* 1: what following takes is counted: time is exact, by the instruction clock */
	u32 client_inum;           /* the flow begins in this namespace, or if it is 0 in any, */
	u16 client_port, protocol; /* from this port, or if it is 0 with a packet or a call to a VIP; 0: any protocol */
};

struct place { /* the arguments of a function, by position; NONE if it has none */
	u16 skb, state, pkt, sockaddr, kind, chain, table, expression, target;
};

struct tuple {
	u32 source, destination;
	u16 source_port, destination_port;
	u32 protocol;
};

struct spending { /* what the follower has taken itself: time within its programs, and how often these were entered */
	u64 time, probes, points;
};

struct event {
	u64 time, packet, skb, location, reason, rule;
	struct spending spent; /* before this sighting */
	struct tuple tuple;
	u32 outer_source, outer_destination;
	u32 netns, ifindex, mark;
	u16 place;
	u8 kind, hook, family, flags, tracked, icmp_type; /* flags of TCP, or the type of SCTP's first chunk and 1 */
	u8 destination_mac[6];
	u8 icmp_code, padding;
	char device[16], name[64], table[32];
	u16 fragment; /* as in the IP header: the offset in units of 8 bytes, and the bit that more follow */
};

struct datagram { /* of which a fragment is a part */
	u32 source, destination;
	u16 identification;
	u8 protocol, padding;
};

enum { SEEN, DROPPED, CONNECTING };

BPF_ARRAY(layouts, struct layout, 1);
BPF_TABLE("array", u32, struct place, places, 64);
BPF_TABLE("hash", u32, u32, namespaces, 1024);
BPF_TABLE("lru_hash", u64, u64, packets, 4096);
BPF_TABLE("lru_hash", struct tuple, u32, flows, 1024);
BPF_TABLE("lru_hash", u64, u32, sockets, 1024);
BPF_TABLE("lru_hash", struct datagram, u32, datagrams,
	  1024);                                  /* datagram -> its ports, which only its first fragment has */
BPF_TABLE("lru_hash", u64, u64, evaluated, 1024); /* packet -> its ruleset: an nft chain or a table of iptables */
BPF_TABLE("hash", u32, u32, vips, 1024);
BPF_ARRAY(lost, u64, 1);
BPF_ARRAY(spendings, struct spending, 1);
BPF_QUEUE(events, struct event, 1, 0);

#define READER(name, type)                                                                                             \
	static __always_inline type name(u64 address)                                                                  \
	{                                                                                                              \
		type value = 0;                                                                                        \
                                                                                                                       \
		bpf_probe_read_kernel(&value, sizeof(value), (void *)address);                                         \
		return value;                                                                                          \
	}

READER(word, u64)
READER(half, u32)
READER(quarter, u16)
READER(byte, u8)

static __always_inline void name_datagram(struct iphdr *head, struct datagram *datagram)
{
	datagram->source = head->saddr;
	datagram->destination = head->daddr;
	datagram->identification = head->id;
	datagram->protocol = head->protocol;
}

static __always_inline void keep_ports(struct iphdr *head, struct tuple *tuple)
{
	struct datagram datagram = {};
	u32 ports = (u32)tuple->source_port << 16 | tuple->destination_port;

	name_datagram(head, &datagram);
	datagrams.update(&datagram, &ports);
}

static __always_inline int read_ports(struct iphdr *head, struct tuple *tuple)
{
	struct datagram datagram = {};
	u32 *ports;

	name_datagram(head, &datagram);
	ports = datagrams.lookup(&datagram);
	if (!ports)
		return 0;
	tuple->source_port = *ports >> 16;
	tuple->destination_port = *ports & 0xffff;
	return 1;
}

/* Reads addresses and ports from an IP header. Returns 0 if it is none. An ICMP error has those of the packet that it
 * tells of, the other way round; an echo has its number in place of ports. */
static __always_inline int read_tuple(u64 ip, struct event *event)
{
	struct iphdr head;
	struct tuple *tuple = &event->tuple;
	u64 transport;

	if (bpf_probe_read_kernel(&head, sizeof(head), (void *)ip) || (*(u8 *)&head >> 4) != 4)
		return 0;
	transport = ip + (*(u8 *)&head & 15) * 4;
	if (head.protocol == IPPROTO_UDP && !(head.frag_off & bpf_htons(OFFSET)) &&
	    quarter(transport + 2) == bpf_htons(VXLAN_PORT)) {
		event->outer_source = head.saddr;
		event->outer_destination = head.daddr;
		ip = transport + VXLAN_INNER;
		if (bpf_probe_read_kernel(&head, sizeof(head), (void *)ip) || (*(u8 *)&head >> 4) != 4)
			return 0;
		transport = ip + (*(u8 *)&head & 15) * 4;
	}
	tuple->source = head.saddr;
	tuple->destination = head.daddr;
	tuple->protocol = head.protocol;
	event->fragment = bpf_ntohs(head.frag_off) & FRAGMENT;
	if (event->fragment & OFFSET)
		return read_ports(&head, tuple);
	tuple->source_port = quarter(transport);
	tuple->destination_port = quarter(transport + 2);
	if (event->fragment)
		keep_ports(&head, tuple);
	if (head.protocol == IPPROTO_TCP)
		event->flags = byte(transport + 13);
	if (head.protocol == IPPROTO_SCTP)
		event->flags = byte(transport + SCTP_HEAD) + 1;
	if (head.protocol == IPPROTO_ICMP) {
		event->icmp_type = byte(transport) + 1;
		event->icmp_code = byte(transport + 1);
		tuple->source_port = tuple->destination_port = quarter(transport + 4);
		if (event->icmp_type != 9 && event->icmp_type != 1) { /* neither an echo nor its reply */
			u64 inner = transport + 8;

			tuple->protocol = byte(inner + 9);
			transport = inner + (byte(inner) & 15) * 4;
			tuple->source_port = quarter(transport + 2);
			tuple->destination_port = quarter(transport);
			if (tuple->protocol == IPPROTO_ICMP)
				tuple->source_port = tuple->destination_port = quarter(transport + 4);
		}
	}
	return 1;
}

#define ARGUMENTS 8

/* The arguments of a function; the last is always 0, for those that it does not have. */
struct arguments {
	u64 of[ARGUMENTS];
};

/* Reads the arguments at once: the verifier refuses an address in the context that is computed. */
static __always_inline void read_arguments(struct pt_regs *ctx, struct arguments *arguments)
{
	volatile struct arguments *to = arguments;

	to->of[0] = PT_REGS_PARM1(ctx);
	to->of[1] = PT_REGS_PARM2(ctx);
	to->of[2] = PT_REGS_PARM3(ctx);
	to->of[3] = PT_REGS_PARM4(ctx);
}

/* Without a condition: the verifier would follow both ways of each. */
static __always_inline u64 argument(struct arguments *arguments, u16 position)
{
	return arguments->of[position % ARGUMENTS];
}
