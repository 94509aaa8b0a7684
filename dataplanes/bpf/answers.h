/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The answers that the programs give for a VIP: ARP replies, echo replies, and refusals where the VIP has no
 * backend. */

static __always_inline int answer_arp(struct __sk_buff *skb)
{
	struct {
		u16 hardware, protocol;
		u8 hardware_length, protocol_length;
		u16 operation;
		u8 sender_mac[6];
		u32 sender;
		u8 target_mac[6];
		u32 target;
	} __attribute__((packed)) arp;

	if (bpf_skb_load_bytes(skb, NETWORK, &arp, sizeof(arp)) < 0 || arp.operation != bpf_htons(1))
		return TC_ACT_OK;
	u32 vip = arp.target, sender = arp.sender;

	if (!services.lookup(&vip))
		return TC_ACT_OK;
	u8 ethernet[12] = {};

	__builtin_memcpy(ethernet, arp.sender_mac, 6);
	ethernet[6] = 0x02, ethernet[7] = 0x42; /* Docker derives a MAC from an address in this way */
	__builtin_memcpy(ethernet + 8, &vip, 4);
	arp.operation = bpf_htons(2);
	__builtin_memcpy(arp.target_mac, arp.sender_mac, 6);
	arp.target = sender;
	__builtin_memcpy(arp.sender_mac, ethernet + 6, 6);
	arp.sender = vip;
	bpf_skb_store_bytes(skb, NETWORK, &arp, sizeof(arp), 0);
	bpf_skb_store_bytes(skb, 0, ethernet, sizeof(ethernet), 0);
	return bpf_redirect(skb->ifindex, 0);
}

/* Turns an echo request into its reply, except for the addresses. The fragments that follow need no change. */
static __always_inline void answer_ping(struct __sk_buff *skb, struct packet *packet)
{
	u32 before = ICMP_ECHO, after = ICMP_ECHOREPLY;

	bpf_l4_csum_replace(skb, packet->transport + offsetof(struct icmphdr, checksum), before, after, 2);
	bpf_skb_store_bytes(skb, packet->transport, &after, 1, 0);
}

/* Replaces an address in the header that an ICMP error quotes. The checksum of the quoted header changes along with the
 * address, so the sum over both stays the same, and with it the checksum of ICMP. Nobody verifies the quoted transport
 * checksum. */
static __always_inline void requote(struct __sk_buff *skb, u32 inner, u32 field, u32 old, u32 new)
{
	bpf_l3_csum_replace(skb, inner + offsetof(struct iphdr, check), old, new, 4);
	bpf_skb_store_bytes(skb, inner + field, &new, sizeof(new), 0);
}

/* Answers "port unreachable", to TCP and UDP alike, as IPVS does (ip_vs_core.c, ip_vs_leave). */
static __always_inline int reject(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
		u8 quoted[28];
	} __attribute__((packed)) answer = {};

	if (packet->transport != NETWORK + sizeof(struct iphdr))
		return TC_ACT_SHOT; /* a packet with IP options is not worth an answer */
	if (bpf_skb_load_bytes(skb, NETWORK, answer.quoted, sizeof(answer.quoted)) < 0)
		return TC_ACT_SHOT;
	u32 rest = packet->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	u32 length = sizeof(struct iphdr) * 2 + sizeof(struct icmphdr) + rest;

	if (bpf_skb_change_tail(skb, NETWORK + sizeof(struct iphdr) + rest, 0) < 0 ||
	    bpf_skb_adjust_room(skb, sizeof(struct iphdr) + sizeof(struct icmphdr), BPF_ADJ_ROOM_MAC, 0) < 0)
		return TC_ACT_SHOT;
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(length);
	answer.ip.ttl = 64;
	answer.ip.protocol = IPPROTO_ICMP;
	answer.ip.saddr = packet->destination;
	answer.ip.daddr = packet->source;
	answer.ip.check = fold(bpf_csum_diff(0, 0, (void *)&answer.ip, sizeof(answer.ip), 0));
	answer.icmp.type = ICMP_DEST_UNREACH;
	answer.icmp.code = ICMP_PORT_UNREACH;
	s64 sum = bpf_csum_diff(0, 0, (void *)&answer.icmp, sizeof(answer.icmp) + sizeof(answer.quoted), 0);

	if (packet->protocol == IPPROTO_TCP) { /* adds the 12 bytes of the header that are not quoted above */
		u32 more[3];

		if (bpf_skb_load_bytes(skb, NETWORK + sizeof(answer), more, sizeof(more)) < 0)
			return TC_ACT_SHOT;
		sum = bpf_csum_diff(0, 0, more, sizeof(more), sum);
	}
	answer.icmp.checksum = fold(sum);
	if (bpf_skb_store_bytes(skb, NETWORK, &answer, sizeof(answer), 0) < 0)
		return TC_ACT_SHOT;
	return send_back(skb);
}

/* Resets a connection that is not in the table (RFC 9293, 3.10.7.1). */
static __always_inline int reset(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} __attribute__((packed)) answer = {};
	struct tcphdr tcp;
	struct {
		u32 source, destination;
		u16 protocol, length;
	} pseudo = {packet->destination, packet->source, bpf_htons(IPPROTO_TCP), bpf_htons(sizeof(tcp))};

	if (packet->transport != NETWORK + sizeof(struct iphdr) ||
	    bpf_skb_load_bytes(skb, packet->transport, &tcp, sizeof(tcp)) < 0 ||
	    bpf_skb_change_tail(skb, NETWORK + sizeof(answer), 0) < 0)
		return TC_ACT_SHOT;
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(sizeof(answer));
	answer.ip.ttl = 64;
	answer.ip.protocol = IPPROTO_TCP;
	answer.ip.saddr = packet->destination;
	answer.ip.daddr = packet->source;
	answer.ip.check = fold(bpf_csum_diff(0, 0, (void *)&answer.ip, sizeof(answer.ip), 0));
	answer.tcp.source = tcp.dest;
	answer.tcp.dest = tcp.source;
	answer.tcp.doff = sizeof(tcp) / 4;
	answer.tcp.rst = 1;
	if (tcp.ack) {
		answer.tcp.seq = tcp.ack_seq;
	} else {
		u32 taken = packet->length - sizeof(answer.ip) - tcp.doff * 4 + tcp.syn + tcp.fin;

		answer.tcp.ack = 1;
		answer.tcp.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + taken);
	}
	s64 sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);

	answer.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&answer.tcp, sizeof(answer.tcp), sum));
	if (bpf_skb_store_bytes(skb, NETWORK, &answer, sizeof(answer), BPF_F_RECOMPUTE_CSUM) < 0)
		return TC_ACT_SHOT;
	return send_back(skb);
}
