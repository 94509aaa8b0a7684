/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs on the node's end of each container's veth, past the bridge. `from_container` handles packets to VIPs as
 * that of tc.c does, but it sends them into the backend's namespace, or out of the vxlan device. Replies are recognised
 * where this node sees them first: at the backend's veth, or at the vxlan device (`from_wire`). They go straight into the
 * client's namespace, so no program is needed on what a container receives. */

#include "services.h"
#include "packet.h"
#include "states.h"
#include "connections.h"
#include "answers.h"
#include "bridge.h"
#include "stations.h"

BPF_F_TABLE("array", u32, u32, every, 1, 0); /* 1: packets that concern no VIP go past the bridge, too */

static __always_inline int send_to(struct __sk_buff *skb, u32 backend)
{
	struct station *station = stations.lookup(&backend);

	if (!station)
		return over_the_bridge(backend);
	if (station->remote) /* the kernel knows the MAC of a neighbour on another node */
		return to_neighbour(station->device, backend);
	return deliver(skb, station);
}

#include "balance.h"

/* Hands a packet to its client, once the VIP is put back. A reply's frame is addressed to the client already. An error may
 * be the vxlan device's own, and is then addressed to that device. The bridge knows the way to any address but a
 * container's first one. */
static __always_inline int to_client(struct __sk_buff *skb, struct packet *packet)
{
	u32 client = packet->destination;
	struct station *station = stations.lookup(&client);

	if (!station || station->remote)
		return TC_ACT_OK;
	return packet->protocol == IPPROTO_ICMP ? deliver(skb, station) : hand_over(skb, station);
}

/* Handles a packet that goes to no VIP. Most such packets concern no VIP at all, and are released after one look-up in
 * the connection table. */
static __always_inline int pass_on(struct __sk_buff *skb, struct packet *packet)
{
	u32 zero = 0;
	u32 *all = every.lookup(&zero);

	if (put_back(skb, packet))
		return to_client(skb, packet);
	return all && *all ? pass_by(skb, packet->destination) : TC_ACT_OK;
}

int from_container(struct __sk_buff *skb)
{
	struct packet packet = {};

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	if (skb->protocol != bpf_htons(ETH_P_IP) || read_packet(skb, &packet) < 0)
		return TC_ACT_OK;
	u32 vip = packet.destination;
	struct service *service = services.lookup(&vip);

	if (service)
		return to_vip(skb, &packet, service);
	give_way(&packet);
	return pass_on(skb, &packet);
}

int from_wire(struct __sk_buff *skb)
{
	struct packet packet = {};

	if (skb->protocol != bpf_htons(ETH_P_IP) || read_packet(skb, &packet) < 0)
		return TC_ACT_OK;
	return pass_on(skb, &packet);
}
