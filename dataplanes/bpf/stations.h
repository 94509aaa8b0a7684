/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The containers of a network, and the ways to them past the bridge: into the namespace of a container on this node
 * (bpf_redirect_peer), and out of the vxlan device to another node. */

struct station {
	u32 device; /* the index of the container's bridge port, or of the vxlan device */
	u16 remote; /* 1: on another node */
	u8 mac[6];
};

BPF_F_TABLE("hash", u32, struct station, stations, 1, NO_PREALLOC);

/* Hands the packet to a container on this node. Its frame is not addressed to the device where it is now, so the kernel
 * has marked it as somebody else's (net/ethernet/eth.c, eth_type_trans). The container would drop it. */
static __always_inline int hand_over(struct __sk_buff *skb, struct station *station)
{
	bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_peer(station->device, 0);
}

/* The same for a packet whose frame may be addressed to somebody else. */
static __always_inline int deliver(struct __sk_buff *skb, struct station *station)
{
	bpf_skb_store_bytes(skb, 0, station->mac, sizeof(station->mac), 0);
	return hand_over(skb, station);
}

/* Sends an unchanged packet past the bridge, if its frame is addressed to the container that has its destination
 * address. Other packets cross the bridge: to a router, to an unknown address, to everybody. No packet goes back to where
 * it came from, just as no bridge port sends a frame back. */
static __always_inline int pass_by(struct __sk_buff *skb, u32 destination)
{
	void *frame = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct station *station = stations.lookup(&destination);

	if (!station || station->device == skb->ifindex || frame + sizeof(struct ethhdr) > end ||
	    *(u16 *)frame != *(u16 *)station->mac || *(u32 *)(frame + 2) != *(u32 *)(station->mac + 2))
		return TC_ACT_OK;
	return station->remote ? bpf_redirect(station->device, 0) : hand_over(skb, station);
}
