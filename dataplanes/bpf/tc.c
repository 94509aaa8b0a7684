/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs on the node's end of each container's veth. `from_container` sends packets for a VIP to a backend, over
 * the bridge, and answers ARP and ping for the VIP. `to_container` replaces the backend's address in replies by the
 * VIP. */

#include "services.h"
#include "packet.h"
#include "states.h"
#include "connections.h"
#include "answers.h"
#include "bridge.h"

static __always_inline int send_to(struct __sk_buff *skb, u32 backend)
{
	return over_the_bridge(backend);
}

#include "balance.h"

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
	return TC_ACT_OK;
}

int to_container(struct __sk_buff *skb)
{
	struct packet packet = {};

	if (skb->protocol == bpf_htons(ETH_P_IP) && read_packet(skb, &packet) == 0)
		put_back(skb, &packet);
	return TC_ACT_OK;
}
