/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs on the node's end of each container's veth, past the bridge. `from_container` does for a container's
 * packets to VIPs what that of tc.c does, but sends them straight into the backend's namespace, or out of the vxlan
 * device. Replies are met where they begin on this node, at the backend's veth, or where they arrive, at the vxlan
 * device (`from_wire`), and go straight into the client's namespace. So a container needs no program on what it
 * receives. */

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
	bpf_skb_store_bytes(skb, 0, station->mac, sizeof(station->mac), 0);
	return hand_over(skb, station);
}

#include "balance.h"

/* Hands a packet that the VIP was put back into to its client. Its frame is addressed to the client already, but for an
 * error of the vxlan device's own, which is addressed to that device. An address that is none of a container's first
 * ones the bridge knows the way to. */
static __always_inline int to_client(struct __sk_buff *skb, u32 client)
{
	struct station *station = stations.lookup(&client);

	if (!station || station->remote)
		return TC_ACT_OK;
	bpf_skb_store_bytes(skb, 0, station->mac, sizeof(station->mac), 0);
	return hand_over(skb, station);
}

/* Takes a packet to no VIP. Most concern none, and are let go after one look into the connection table. */
static __always_inline int pass_on(struct __sk_buff *skb, struct packet *packet)
{
	u32 zero = 0;
	u32 *all = every.lookup(&zero);

	if (put_back(skb, packet))
		return to_client(skb, packet->destination);
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
