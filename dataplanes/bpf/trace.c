/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Follows the packets of one flow through the namespaces of a lab. It only reads: no packet and no return value changes.
 *
 * The programs are attached to the entries of kernel functions, and to tracepoints. A packet
 * is known by the address of its sk_buff, which stays the same through encapsulation, bridges and namespaces, or else by
 * the address of its data, which it shares with its clones. A packet that is seen for the first time belongs to the flow
 * if its addresses and ports do, in either direction. Those of a known packet are learned whenever they change, so the
 * answer is found after any NAT.
 *
 * Structures of the kernel differ, so no header describes them here: `layout` has the offsets, from the kernel's BTF. */

#include <uapi/linux/bpf.h>
#include <uapi/linux/ptrace.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>

#define NONE 0xffff
#define NO_HOOK 255
#define VXLAN_PORT 4789
#define VXLAN_INNER (8 + 8 + ETH_HLEN) /* the headers between the outer and the inner IP header: UDP, VXLAN, Ethernet */

static u64 (*cookie_of)(void *ctx) = (void *)174; /* bpf_get_attach_cookie */

struct layout {
	u32 skb_dev, skb_sk, skb_head, skb_data, skb_network_header, skb_mac_header, skb_mark, skb_nfct;
	u32 dev_net, dev_ifindex, dev_name, net_inum, sock_net;
	u32 state_hook, state_pf, state_net, pkt_skb, pkt_state;
	u32 chain_table, chain_name, table_name, xt_table_name;
	u32 client_inum;           /* the flow begins in this namespace, or if it is 0 in any, */
	u16 client_port, protocol; /* from this port, or if it is 0 with a packet or a call to a VIP; 0: any protocol */
};

struct place { /* the arguments of a function, by position; NONE if it has none */
	u16 skb, state, pkt, sockaddr, kind, chain, table, padding;
};

struct tuple {
	u32 source, destination;
	u16 source_port, destination_port;
	u32 protocol;
};

struct event {
	u64 time, packet, skb, location, reason;
	struct tuple tuple;
	u32 outer_source, outer_destination;
	u32 netns, ifindex, mark;
	u16 place;
	u8 kind, hook, family, tcp_flags, tracked, icmp_type;
	u8 destination_mac[6];
	u8 icmp_code, padding;
	char device[16], name[32], table[32];
};

enum { SEEN, DROPPED, CONNECTING };

BPF_ARRAY(layouts, struct layout, 1);
BPF_TABLE("array", u32, struct place, places, 64);
BPF_TABLE("hash", u32, u32, namespaces, 1024);
BPF_TABLE("lru_hash", u64, u64, packets, 4096);
BPF_TABLE("lru_hash", struct tuple, u32, flows, 1024);
BPF_TABLE("lru_hash", u64, u32, sockets, 1024);
BPF_TABLE("hash", u32, u32, vips, 1024);
BPF_ARRAY(lost, u64, 1);
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
	if (head.protocol == IPPROTO_UDP && quarter(transport + 2) == bpf_htons(VXLAN_PORT)) {
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
	tuple->source_port = quarter(transport);
	tuple->destination_port = quarter(transport + 2);
	if (head.protocol == IPPROTO_TCP)
		event->tcp_flags = byte(transport + 13);
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

static __always_inline void learn(struct tuple *tuple)
{
	struct tuple back = {tuple->destination, tuple->source, tuple->destination_port, tuple->source_port,
			     tuple->protocol};
	u32 one = 1;

	if (flows.lookup(tuple))
		return;
	flows.update(tuple, &one);
	flows.update(&back, &one);
}

/* A program on a cgroup may send a socket to a backend, so that no packet goes to the VIP. Then the socket tells. */
static __always_inline int begins(struct layout *layout, struct event *event, u64 sock)
{
	if (layout->client_inum && event->netns != layout->client_inum)
		return 0;
	if (layout->protocol && event->tuple.protocol != layout->protocol)
		return 0;
	if (layout->client_port)
		return event->tuple.source_port == layout->client_port;
	return vips.lookup(&event->tuple.destination) || sockets.lookup(&sock);
}

static __always_inline void put(struct event *event)
{
	u32 zero = 0;
	u64 *count;

	if (!events.push(event, 0))
		return;
	count = lost.lookup(&zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Describes a packet in `event`. Returns 0 if it is not of the flow. */
static __always_inline int describe(struct layout *layout, struct event *event, u64 skb, u64 state, int received)
{
	u64 device = word(skb + layout->skb_dev), head = word(skb + layout->skb_head), net, ip, mac, sock;
	u64 *known = packets.lookup(&skb);

	if (!known)
		known = packets.lookup(&head);
	net = state ? word(state + layout->state_net) : device ? word(device + layout->dev_net) : 0;
	sock = word(skb + layout->skb_sk);
	if (!net)
		net = sock ? word(sock + layout->sock_net) : 0;
	event->netns = net ? half(net + layout->net_inum) : 0;
	if (!namespaces.lookup(&event->netns))
		return 0;
	ip = received ? word(skb + layout->skb_data) : head + quarter(skb + layout->skb_network_header);
	if (!read_tuple(ip, event))
		return 0;
	if (!known && !flows.lookup(&event->tuple) && !begins(layout, event, sock))
		return 0;
	event->skb = skb;
	event->packet = known ? *known : event->time;
	packets.update(&skb, &event->packet);
	packets.update(&head, &event->packet);
	learn(&event->tuple);
	event->mark = half(skb + layout->skb_mark);
	event->tracked = word(skb + layout->skb_nfct) & 7;
	event->tracked |= word(skb + layout->skb_nfct) > 7 ? 8 : 0;
	if (device) {
		event->ifindex = half(device + layout->dev_ifindex);
		bpf_probe_read_kernel(event->device, sizeof(event->device), (void *)(device + layout->dev_name));
	}
	mac = quarter(skb + layout->skb_mac_header);
	if (mac != NONE)
		bpf_probe_read_kernel(event->destination_mac, ETH_ALEN, (void *)(head + mac));
	if (state) {
		event->hook = byte(state + layout->state_hook);
		event->family = byte(state + layout->state_pf);
	}
	return 1;
}

static __always_inline void start(struct event *event, u32 place, u8 kind)
{
	event->time = bpf_ktime_get_ns();
	event->place = place;
	event->kind = kind;
	event->family = event->hook = NO_HOOK;
}

struct arguments {
	u64 first, second, third, fourth;
};

/* Reads the arguments at once: the verifier refuses an address in the context that is computed. */
static __always_inline void read_arguments(struct pt_regs *ctx, struct arguments *arguments)
{
	volatile struct arguments *to = arguments;

	to->first = PT_REGS_PARM1(ctx);
	to->second = PT_REGS_PARM2(ctx);
	to->third = PT_REGS_PARM3(ctx);
	to->fourth = PT_REGS_PARM4(ctx);
}

static __always_inline u64 argument(struct arguments *arguments, u16 position)
{
	switch (position) {
	case 0:
		return arguments->first;
	case 1:
		return arguments->second;
	case 2:
		return arguments->third;
	case 3:
		return arguments->fourth;
	}
	return 0;
}

/* The name of the ruleset that a function evaluates: an nft chain with its table, or a table of iptables. */
static __always_inline void name_ruleset(struct arguments *arguments, struct layout *layout, struct place *place,
					 struct event *event)
{
	u64 chain = argument(arguments, place->chain), table = argument(arguments, place->table);

	if (chain) {
		bpf_probe_read_kernel_str(event->name, sizeof(event->name), (void *)word(chain + layout->chain_name));
		table = word(chain + layout->chain_table);
		bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)word(table + layout->table_name));
	} else if (table) {
		bpf_probe_read_kernel_str(event->table, sizeof(event->table), (void *)(table + layout->xt_table_name));
	}
}

static __always_inline int connecting(struct arguments *arguments, struct layout *layout, struct place *place,
				      struct event *event)
{
	u64 sock = argument(arguments, 0), address = argument(arguments, place->sockaddr),
	    net = word(sock + layout->sock_net);
	u32 one = 1, destination = half(address + 4);

	event->netns = half(net + layout->net_inum);
	if ((layout->client_inum && event->netns != layout->client_inum) || !namespaces.lookup(&event->netns))
		return 0;
	if (quarter(address) != 2 /* AF_INET */)
		return 0;
	if (!layout->client_port && vips.lookup(&destination))
		sockets.update(&sock, &one);
	else if (!layout->client_port && !sockets.lookup(&sock))
		return 0;
	event->hook = argument(arguments, place->kind);
	event->kind = CONNECTING;
	event->tuple.protocol = layout->protocol;
	event->tuple.source_port = layout->client_port;
	event->tuple.destination_port = quarter(address + 2);
	event->tuple.destination = destination;
	put(event);
	return 0;
}

int on_entry(struct pt_regs *ctx)
{
	u32 zero = 0, number = (u32)cookie_of(ctx);
	struct layout *layout = layouts.lookup(&zero);
	struct place *place = places.lookup(&number);
	struct event event = {};
	struct arguments read = {}, *arguments = &read;
	u64 skb, state, pkt;

	read_arguments(ctx, arguments);
	if (!layout || !place)
		return 0;
	start(&event, number, SEEN);
	if (place->sockaddr != NONE)
		return connecting(arguments, layout, place, &event);
	skb = argument(arguments, place->skb);
	state = argument(arguments, place->state);
	pkt = argument(arguments, place->pkt);
	if (pkt) {
		skb = word(pkt + layout->pkt_skb);
		state = word(pkt + layout->pkt_state);
	}
	if (!describe(layout, &event, skb, state, 0))
		return 0;
	name_ruleset(arguments, layout, place, &event);
	put(&event);
	return 0;
}

static __always_inline void forget(struct layout *layout, u64 skb)
{
	u64 head = word(skb + layout->skb_head);

	packets.delete(&skb);
	packets.delete(&head);
}

/* TCP frees what it has received without a tracepoint. */
int on_free(struct pt_regs *ctx)
{
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	if (layout)
		forget(layout, PT_REGS_PARM1(ctx));
	return 0;
}

static __always_inline int at_tracepoint(u64 *ctx, u16 place, int received)
{
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);
	struct event event = {};

	start(&event, place, SEEN);
	if (layout && describe(layout, &event, ctx[0], 0, received))
		put(&event);
	return 0;
}

int on_receive(struct bpf_raw_tracepoint_args *ctx)
{
	return at_tracepoint((u64 *)ctx, 0, 1);
}

int on_queue(struct bpf_raw_tracepoint_args *ctx)
{
	return at_tracepoint((u64 *)ctx, 1, 0);
}

int on_drop(struct bpf_raw_tracepoint_args *args)
{
	u64 *ctx = (u64 *)args, skb = ctx[0];
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);
	struct event event = {};

	if (!layout)
		return 0;
	start(&event, 2, DROPPED);
	if (describe(layout, &event, skb, 0, 0)) {
		event.location = ctx[1];
		event.reason = (u32)ctx[2];
		put(&event);
	}
	forget(layout, skb);
	return 0;
}

int on_consume(struct bpf_raw_tracepoint_args *args)
{
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	if (layout)
		forget(layout, ((u64 *)args)[0]);
	return 0;
}
