/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Helpers for an IPv4 packet in a classifier: they read it, give it new addresses and send it back. */

#include <uapi/linux/if_ether.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/pkt_cls.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#define MORE_FRAGMENTS 0x2000
#define OFFSET 0x1fff

struct packet {
	u32 source;
	u32 destination;
	u16 id;
	u16 fragment; /* frag_off, in host order */
	u16 check;    /* the checksum of the IP header */
	u8 protocol;
	u8 flags;  /* TCP's flags, or those that SCTP's first chunk corresponds to */
	u8 offset; /* byte 12 of TCP's header: where its data begin */
	u16 source_port;
	u16 destination_port;
	u32 transport; /* offset of the transport header, in bytes */
	u32 length;    /* of the IP packet, in bytes */
};

#define NETWORK ETH_HLEN

/* bpf_redirect_neigh, which bcc 0.26 declares with one argument too few. */
static int (*const redirect_neigh)(u32, struct bpf_redir_neigh *, int, u64) = (void *)152;

/* Sends the packet out of a device to a neighbour there, whose MAC the kernel knows or asks for. */
static __always_inline int to_neighbour(u32 device, u32 address)
{
	struct bpf_redir_neigh next = {.nh_family = 2 /* AF_INET */, .ipv4_nh = address};

	return redirect_neigh(device, &next, sizeof(next), 0);
}

#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

/* SCTP has its ports where TCP and UDP have them. Its checksum does not cover addresses. */
static __always_inline int has_ports(u8 protocol)
{
	return protocol < 64 ? (1ULL << IPPROTO_TCP | 1ULL << IPPROTO_UDP) >> protocol & 1 : protocol == IPPROTO_SCTP;
}

/* Translates SCTP's chunks. An association opens and ends as a TCP connection does, under other names (RFC 9260,
 * 3.2). */
static __always_inline u8 as_flags(u8 chunk)
{
	if (chunk == 1) /* INIT */
		return SYN;
	if (chunk == 2) /* INIT ACK */
		return SYN | ACK;
	if (chunk == 6) /* ABORT */
		return RST;
	if (chunk == 7 || chunk == 8) /* SHUTDOWN, SHUTDOWN ACK */
		return FIN;
	return ACK;
}

static __always_inline void read_header(struct iphdr *ip, u32 at, struct packet *packet)
{
	packet->source = ip->saddr;
	packet->destination = ip->daddr;
	packet->id = ip->id;
	packet->fragment = bpf_ntohs(ip->frag_off);
	packet->protocol = ip->protocol;
	packet->transport = at + ip->ihl * 4;
	packet->length = bpf_ntohs(ip->tot_len);
	packet->check = ip->check;
	packet->flags = packet->offset = 0;
	packet->source_port = packet->destination_port = 0;
}

/* The beginning of the headers of TCP, UDP and SCTP. */
struct header {
	u16 source, destination;
	u8 between[8];
	u8 offset_or_chunk, flags;
};

static __always_inline void read_flags(struct header *header, struct packet *packet)
{
	if (packet->protocol == IPPROTO_TCP) {
		packet->offset = header->offset_or_chunk;
		packet->flags = header->flags;
	} else if (packet->protocol == IPPROTO_SCTP) {
		packet->flags = as_flags(header->offset_or_chunk);
	}
}

/* Reads a packet at any place, such as the one that an ICMP error quotes. */
static __always_inline int read_ip(struct __sk_buff *skb, u32 at, struct packet *packet)
{
	struct iphdr ip;
	struct header header = {};

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
		return -1;
	read_header(&ip, at, packet);
	if (packet->fragment & OFFSET || !has_ports(ip.protocol))
		return 0;
	/* Most headers are read at once. An ICMP error may quote no more of a header than the ports. */
	if ((ip.protocol == IPPROTO_UDP || bpf_skb_load_bytes(skb, packet->transport, &header, sizeof(header)) < 0) &&
	    bpf_skb_load_bytes(skb, packet->transport, &header, 4) < 0)
		return -1;
	packet->source_port = header.source;
	packet->destination_port = header.destination;
	read_flags(&header, packet);
	return 0;
}

/* Reads the packet itself. Its headers mostly lie in one piece, and are then read where they are. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + NETWORK;
	struct header *header = (void *)(ip + 1);

	if ((void *)(header + 1) > end || *(u8 *)ip != 0x45 /* version 4, without options */)
		return read_ip(skb, NETWORK, packet);
	read_header(ip, NETWORK, packet);
	if (packet->fragment & OFFSET || !has_ports(packet->protocol))
		return 0;
	packet->source_port = header->source;
	packet->destination_port = header->destination;
	read_flags(header, packet);
	return 0;
}

/* Only for TCP: SCTP acknowledges by separate chunks. */
static __always_inline int has_data(struct packet *packet)
{
	return packet->offset && packet->length > packet->transport - NETWORK + packet->offset / 16 * 4;
}

static __always_inline u32 fold(s64 sum)
{
	u32 folded = (u32)sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (u16)~folded;
}

/* Gives the packet new addresses, and corrects every checksum (RFC 1624, equation 3). */
static __always_inline void readdress(struct __sk_buff *skb, struct packet *packet, u32 source, u32 destination)
{
	u64 sum = (u64)(u32)~packet->source + (u32)~packet->destination + source + destination;

	sum = (u32)sum + (sum >> 32);
	u32 checksum = 0, difference = sum + (sum >> 32);
	u64 flags = BPF_F_PSEUDO_HDR;
	struct {
		u16 check;
		u32 source, destination;
	} __attribute__((packed)) changed = {
		fold((u64)(u16)~packet->check + (difference & 0xffff) + (difference >> 16)), source, destination};

	if (!(packet->fragment & OFFSET)) {
		if (packet->protocol == IPPROTO_TCP)
			checksum = packet->transport + offsetof(struct tcphdr, check);
		if (packet->protocol == IPPROTO_UDP) {
			checksum = packet->transport + offsetof(struct udphdr, check);
			flags |= BPF_F_MARK_MANGLED_0; /* a checksum of 0 stays 0: the sender computed none */
		}
		if (checksum)
			bpf_l4_csum_replace(skb, checksum, 0, difference, flags);
	}
	bpf_skb_store_bytes(skb, NETWORK + offsetof(struct iphdr, check), &changed, sizeof(changed), 0);
}

/* Sends the packet back to where it came from, as if a neighbour had sent it. */
static __always_inline int send_back(struct __sk_buff *skb)
{
	u8 addresses[12], swapped[12];

	if (bpf_skb_load_bytes(skb, 0, addresses, sizeof(addresses)) < 0)
		return TC_ACT_SHOT;
	__builtin_memcpy(swapped, addresses + 6, 6);
	__builtin_memcpy(swapped + 6, addresses, 6);
	bpf_skb_store_bytes(skb, 0, swapped, sizeof(swapped), 0);
	return bpf_redirect(skb->ifindex, 0);
}
