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

#include "sightings.h"
#include "rules.h"

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

/* The answer to a packet may come from elsewhere than was asked: with direct routing from the backend's own address, if
 * the server does not choose. So what comes to the client's port from anywhere is an answer. */
static __always_inline void await(struct tuple *tuple)
{
	struct tuple from_anywhere = {0, tuple->source, 0, tuple->source_port, tuple->protocol};
	u32 one = 1;

	flows.update(&from_anywhere, &one);
}

static __always_inline int answers(struct tuple *tuple)
{
	struct tuple from_anywhere = {0, tuple->destination, 0, tuple->destination_port, tuple->protocol};

	return flows.lookup(&from_anywhere) != 0;
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
	struct spending *spent = spendings.lookup(&zero);

	if (spent)
		event->spent = *spent;
	if (!events.push(event, 0))
		return;
	count = lost.lookup(&zero);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* A program ends that has begun at a time. What the kernel does to call it is not seen here. */
static __always_inline int spend(struct layout *layout, u64 began, int probe)
{
	u32 zero = 0;
	struct spending *spent = layout && layout->counted ? spendings.lookup(&zero) : 0;

	if (spent) {
		__sync_fetch_and_add(&spent->probes, probe);
		__sync_fetch_and_add(&spent->points, !probe);
		__sync_fetch_and_add(&spent->time, bpf_ktime_get_ns() - began);
	}
	return 0;
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
	if (!known && !flows.lookup(&event->tuple) && !answers(&event->tuple)) {
		if (!begins(layout, event, sock))
			return 0;
		await(&event->tuple);
	}
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

static __always_inline void start(struct event *event, u64 time, u32 place, u8 kind)
{
	event->time = time;
	event->place = place;
	event->kind = kind;
	event->family = event->hook = NO_HOOK;
}

static __always_inline void connecting(struct arguments *arguments, struct layout *layout, struct place *place,
				       struct event *event)
{
	u64 sock = argument(arguments, 0), address = argument(arguments, place->sockaddr),
	    net = word(sock + layout->sock_net);
	u32 one = 1, destination = half(address + 4);

	event->netns = half(net + layout->net_inum);
	if ((layout->client_inum && event->netns != layout->client_inum) || !namespaces.lookup(&event->netns))
		return;
	if (quarter(address) != 2 /* AF_INET */)
		return;
	if (!layout->client_port && vips.lookup(&destination))
		sockets.update(&sock, &one);
	else if (!layout->client_port && !sockets.lookup(&sock))
		return;
	event->hook = argument(arguments, place->kind);
	event->kind = CONNECTING;
	event->tuple.protocol = layout->protocol;
	event->tuple.source_port = layout->client_port;
	event->tuple.destination_port = quarter(address + 2);
	event->tuple.destination = destination;
	put(event);
}

static __always_inline void enter(struct pt_regs *ctx, struct layout *layout, u64 time)
{
	u32 number = (u32)cookie_of(ctx);
	struct place *place = places.lookup(&number);
	struct event event = {};
	struct arguments read = {}, *arguments = &read;
	u64 skb, state, pkt;

	read_arguments(ctx, arguments);
	if (!layout || !place)
		return;
	start(&event, time, number, SEEN);
	if (place->sockaddr != NONE) {
		connecting(arguments, layout, place, &event);
		return;
	}
	skb = argument(arguments, place->skb);
	state = argument(arguments, place->state);
	pkt = argument(arguments, place->pkt);
	if (pkt) {
		skb = word(pkt + layout->pkt_skb);
		state = word(pkt + layout->pkt_state);
	}
	if (!describe(layout, &event, skb, state, 0))
		return;
	name_ruleset(arguments, layout, place, &event);
	put(&event);
}

int on_entry(struct pt_regs *ctx)
{
	u64 time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	enter(ctx, layout, time);
	return spend(layout, time, 1);
}

/* An expression of nft, or a target of iptables, is evaluated: the rule to which it belongs is told. */
static __always_inline void evaluate(struct pt_regs *ctx, struct layout *layout, u64 time)
{
	u32 number = (u32)cookie_of(ctx);
	struct place *place = places.lookup(&number);
	struct event event = {};
	struct arguments read = {}, *arguments = &read;
	u64 skb, state, pkt, expression, parameters, *ruleset;

	read_arguments(ctx, arguments);
	if (!layout || !place)
		return;
	skb = argument(arguments, place->skb);
	pkt = argument(arguments, place->pkt);
	expression = argument(arguments, place->expression);
	parameters = argument(arguments, place->target);
	if (pkt)
		skb = word(pkt + layout->pkt_skb);
	state = pkt ? word(pkt + layout->pkt_state) : word(parameters + layout->target_state);
	ruleset = evaluated.lookup(&skb);
	if (!ruleset || (expression && !acts(expression, place->kind != NONE)))
		return;
	/* First, while all states of the event are the same: the verifier follows the search with each of them. */
	if (expression)
		name_nft_rule(layout, *ruleset, expression, &event);
	else
		name_iptables_rule(layout, *ruleset, parameters, &event);
	if (!event.rule)
		return;
	start(&event, time, number, SEEN);
	if (describe(layout, &event, skb, state, 0))
		put(&event);
}

int on_rule(struct pt_regs *ctx)
{
	u64 time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	evaluate(ctx, layout, time);
	return spend(layout, time, 1);
}

/* A packet or a clone is gone. Its data may be used again, unless others share it: a tap frees its clone first. The lower
 * half of `dataref` counts all that do (include/linux/skbuff.h, SKB_DATAREF_SHIFT). */
static __always_inline void forget(struct layout *layout, u64 skb)
{
	u64 head = word(skb + layout->skb_head), shared = head + half(skb + layout->skb_end);

	packets.delete(&skb);
	if ((half(shared + layout->shared_dataref) & 0xffff) == 1)
		packets.delete(&head);
}

/* TCP frees what it has received without a tracepoint. */
int on_free(struct pt_regs *ctx)
{
	u64 time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	if (layout)
		forget(layout, PT_REGS_PARM1(ctx));
	return spend(layout, time, 1);
}

static __always_inline int at_tracepoint(u64 *ctx, u16 place, int received)
{
	u64 time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);
	struct event event = {};

	start(&event, time, place, SEEN);
	if (layout && describe(layout, &event, ctx[0], 0, received))
		put(&event);
	return spend(layout, time, 0);
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
	u64 *ctx = (u64 *)args, skb = ctx[0], time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);
	struct event event = {};

	if (!layout)
		return 0;
	start(&event, time, 2, DROPPED);
	if (describe(layout, &event, skb, 0, 0)) {
		event.location = ctx[1];
		event.reason = (u32)ctx[2];
		put(&event);
	}
	forget(layout, skb);
	return spend(layout, time, 0);
}

int on_consume(struct bpf_raw_tracepoint_args *args)
{
	u64 time = bpf_ktime_get_ns();
	u32 zero = 0;
	struct layout *layout = layouts.lookup(&zero);

	if (layout)
		forget(layout, ((u64 *)args)[0]);
	return spend(layout, time, 0);
}
