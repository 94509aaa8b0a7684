/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The shortest path between the containers of a network, without VIPs and connections. It is the limit of what a plane
 * that goes past the bridge can reach. */

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>

#define NO_PREALLOC 1

#include "stations.h"

static __always_inline int on_its_way(struct __sk_buff *skb)
{
	void *frame = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = frame + ETH_HLEN;

	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(ip + 1) > end)
		return TC_ACT_OK;
	return pass_by(skb, ip->daddr);
}

int from_container(struct __sk_buff *skb)
{
	return on_its_way(skb);
}

int from_wire(struct __sk_buff *skb)
{
	return on_its_way(skb);
}
