/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Where the containers of a network are, and the way to them past the bridge: straight into the namespace of a container
 * on this node (bpf_redirect_peer), and out of the vxlan device to another node. */

struct station {
	u32 device; /* the index of the container's bridge port, or of the vxlan device */
	u16 remote; /* 1: on another node */
	u8 mac[6];
};

BPF_F_TABLE("hash", u32, struct station, stations, 1, NO_PREALLOC);

/* bpf_redirect_peer, which bcc 0.26 does not declare in every version of the kernel's headers. */
static int (*const redirect_peer)(u32, u64) = (void *)155;

/* Hands the packet to a container on this node. To the sender's veth it is a packet for somebody else, as its frame is
 * not addressed to that veth (net/ethernet/eth.c, eth_type_trans), and no namespace would take it. */
static __always_inline int hand_over(struct __sk_buff *skb, struct station *station)
{
	bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return redirect_peer(station->device, 0);
}

/* Sends a packet that nothing is changed in past the bridge, if its frame is addressed to the container that has its
 * destination address. Any other packet goes over the bridge: to a router, to an address that is not a container's, or
 * to everybody. Nothing goes back to where it came from, as no bridge port sends a frame back. */
static __always_inline int pass_by(struct __sk_buff *skb, u32 destination)
{
	void *frame = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct station *station = stations.lookup(&destination);

	if (!station || station->device == skb->ifindex || frame + sizeof(struct ethhdr) > end ||
	    *(u16 *)frame != *(u16 *)station->mac || *(u32 *)(frame + 2) != *(u32 *)(station->mac + 2))
		return TC_ACT_OK;
	return station->remote ? bpf_redirect(station->device, 0) : hand_over(skb, station);
}
