/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs on the node's end of each container's veth. `from_container` sends what is for a VIP to a backend and
 * answers ARP and ping for it; `to_container` makes a backend's answers come from the VIP. The client's address stays,
 * but where a backend is sent to itself: there the VIP stands for it on both sides.
 *
 * Ports never change, so only addresses are rewritten. Connections are in `flows`, from both ends' point of view. */

#include "services.h"
#include "packet.h"

/* bpf_redirect_neigh: bcc 0.26 declares it with an argument too few. */
static int (*const redirect_neigh)(u32, struct bpf_redir_neigh *, int, u64) = (void *)152;

#define SECOND 1000000000ULL

/* Idle time after which a flow is forgotten: conntrack's defaults (net/netfilter/nf_conntrack_proto_{tcp,udp}.c). */
#define TCP_ESTABLISHED (432000 * SECOND)
#define TCP_PASSING (120 * SECOND) /* opening or closing */
#define UDP_IDLE (120 * SECOND) /* SCTP, too: its heartbeats are 30 s apart (RFC 9260, 16) */

struct flow_key {
	u32 source;
	u32 destination;
	u16 source_port;
	u16 destination_port;
	u32 protocol;
};

enum kind { TO_BACKEND, TO_SELF, FROM_SELF, TO_CLIENT };

struct flow {
	u64 seen;
	u64 idle;
	u32 source; /* what the addresses become */
	u32 destination;
	u32 vip;
	u32 kind;
};

struct fragment_key {
	u32 source;
	u32 destination;
	u32 id;
	u32 protocol;
};

struct fragment {
	u32 source;
	u32 destination;
	u32 kind;
};

struct bridge {
	u32 index;
};

BPF_F_TABLE("lru_hash", struct flow_key, struct flow, flows, 1, 0);
BPF_F_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, 1, 0);
BPF_F_TABLE("array", u32, struct bridge, bridge, 1, 0);

static __always_inline int send_to(struct __sk_buff *skb, u32 backend)
{
	u32 zero = 0;
	struct bridge *out = bridge.lookup(&zero);
	struct bpf_redir_neigh next = {.nh_family = 2 /* AF_INET */, .ipv4_nh = backend};

	if (!out)
		return TC_ACT_SHOT;
	return redirect_neigh(out->index, &next, sizeof(next), 0);
}

static __always_inline int forward(struct __sk_buff *skb, struct packet *packet, u32 source, u32 destination, u32 kind)
{
	readdress(skb, packet, source, destination);
	return kind == TO_BACKEND ? send_to(skb, destination) : send_back(skb);
}

static __always_inline void remember_fragment(struct packet *packet, u32 source, u32 destination, u32 kind)
{
	if (!(packet->fragment & MORE_FRAGMENTS))
		return;
	struct fragment_key key = {packet->source, packet->destination, packet->id, packet->protocol};
	struct fragment value = {source, destination, kind};

	fragments.update(&key, &value);
}

static __always_inline struct fragment *find_fragment(struct packet *packet)
{
	struct fragment_key key = {packet->source, packet->destination, packet->id, packet->protocol};

	return fragments.lookup(&key);
}

/* Signed: another CPU may have seen a later packet, and then `seen` is after this one's `now`. */
static __always_inline int alive(struct flow *flow, u64 now)
{
	return (s64)(now - flow->seen) < (s64)flow->idle;
}

/* The time-out follows what the packet says of its connection; each side of a flow has its own. */
static __always_inline void touch(struct flow *flow, struct packet *packet, u64 now)
{
	flow->seen = now;
	if (packet->protocol != IPPROTO_TCP)
		return;
	if (packet->flags & FIN_OR_RST)
		flow->idle = TCP_PASSING;
	else if (!(packet->flags & SYN_ONLY) && flow->idle == TCP_PASSING + 1) /* opening: see open_flow */
		flow->idle = TCP_ESTABLISHED;
}

static __always_inline int open_flow(struct packet *packet, u64 now, struct flow *made, u32 backend)
{
	struct flow_key key = {packet->source, packet->destination, packet->source_port, packet->destination_port,
			       packet->protocol};
	/* One more nanosecond tells opening from closing: only the former is followed by a longer one. */
	u64 idle = packet->protocol == IPPROTO_TCP ? TCP_PASSING + 1 : UDP_IDLE;
	struct flow there = {now, idle, packet->source, backend, packet->destination, TO_BACKEND};
	struct flow_key back_key = {backend, packet->source, packet->destination_port, packet->source_port,
				    packet->protocol};
	struct flow back = {now, idle, packet->destination, packet->source, packet->destination, TO_CLIENT};

	if (backend == packet->source) {
		there.source = packet->destination;
		there.kind = TO_SELF;
		back_key.destination = packet->destination;
		back.kind = FROM_SELF;
	}
	*made = there;
	if (flows.update(&key, &there) < 0 || flows.update(&back_key, &back) < 0)
		return -1;
	return 0;
}

/* Nobody serves it: port unreachable, for TCP and UDP alike, as IPVS does (ip_vs_core.c, ip_vs_leave). */
static __always_inline int reject(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		struct iphdr ip;
		struct icmphdr icmp;
		u8 quoted[28];
	} __attribute__((packed)) answer = {};

	if (packet->transport != NETWORK + sizeof(struct iphdr))
		return TC_ACT_SHOT; /* IP options: not worth an answer */
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

	if (packet->protocol == IPPROTO_TCP) { /* the 12 bytes of the header that are not quoted above */
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
	ethernet[6] = 0x02, ethernet[7] = 0x42; /* as Docker derives a MAC from an address */
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

static __always_inline int answer_ping(struct __sk_buff *skb, struct packet *packet)
{
	u32 before = ICMP_ECHO, after = ICMP_ECHOREPLY;

	bpf_l4_csum_replace(skb, packet->transport + offsetof(struct icmphdr, checksum), before, after, 2);
	bpf_skb_store_bytes(skb, packet->transport, &after, 1, 0);
	readdress(skb, packet, packet->destination, packet->source);
	return send_back(skb);
}

/* The address quoted in an ICMP error. The quoted header's checksum is changed along with the address it covers, so the
 * sum over both, and with it ICMP's checksum, stays what it was. The quoted transport checksum nobody verifies. */
static __always_inline void requote(struct __sk_buff *skb, u32 inner, u32 field, u32 old, u32 new)
{
	bpf_l3_csum_replace(skb, inner + offsetof(struct iphdr, check), old, new, 4);
	bpf_skb_store_bytes(skb, inner + field, &new, sizeof(new), 0);
}

static __always_inline int is_error(struct __sk_buff *skb, struct packet *packet, u8 *type)
{
	if (packet->protocol != IPPROTO_ICMP || packet->fragment & OFFSET ||
	    bpf_skb_load_bytes(skb, packet->transport, type, 1) < 0)
		return 0;
	return *type == ICMP_DEST_UNREACH || *type == ICMP_TIME_EXCEEDED || *type == ICMP_PARAMETERPROB;
}

/* The client complains about a packet of the VIP's: the backend that sent it must hear. */
static __always_inline int complain(struct __sk_buff *skb, struct packet *packet)
{
	u32 inner = packet->transport + sizeof(struct icmphdr);
	struct packet quoted = {};

	if (read_ip(skb, inner, &quoted) < 0)
		return TC_ACT_SHOT;
	struct flow_key key = {quoted.destination, quoted.source, quoted.destination_port, quoted.source_port,
			       quoted.protocol};
	struct flow *flow = flows.lookup(&key);

	if (!flow || flow->kind != TO_BACKEND)
		return TC_ACT_SHOT;
	u32 backend = flow->destination;

	requote(skb, inner, offsetof(struct iphdr, saddr), quoted.source, backend);
	return forward(skb, packet, packet->source, backend, TO_BACKEND);
}

/* A new connection to a backend's own address has the ports of one that went there through a VIP: from now on what comes
 * back is its own. */
static __always_inline void give_way(struct packet *packet)
{
	if (packet->protocol != IPPROTO_TCP || (packet->flags & SYN_OR_ACK) != SYN_ONLY)
		return;
	struct flow_key key = {packet->destination, packet->source, packet->destination_port, packet->source_port,
			       packet->protocol};
	struct flow *flow = flows.lookup(&key);

	if (flow && flow->kind == TO_CLIENT)
		flows.delete(&key);
}

int from_container(struct __sk_buff *skb)
{
	struct packet packet = {};
	u8 type = 0;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	if (skb->protocol != bpf_htons(ETH_P_IP) || read_ip(skb, NETWORK, &packet) < 0)
		return TC_ACT_OK;
	u32 vip = packet.destination;

	if (!services.lookup(&vip)) {
		give_way(&packet);
		return TC_ACT_OK;
	}
	if (packet.fragment & OFFSET) {
		struct fragment *first = find_fragment(&packet);

		return first ? forward(skb, &packet, first->source, first->destination, first->kind) : TC_ACT_SHOT;
	}
	if (is_error(skb, &packet, &type))
		return complain(skb, &packet);
	if (packet.protocol == IPPROTO_ICMP)
		return type == ICMP_ECHO ? answer_ping(skb, &packet) : TC_ACT_SHOT;
	if (!has_ports(packet.protocol))
		return TC_ACT_SHOT;

	u64 now = bpf_ktime_get_ns();
	struct flow_key key = {packet.source, packet.destination, packet.source_port, packet.destination_port,
			       packet.protocol};
	struct flow *known = flows.lookup(&key), flow;
	int closing = known && known->idle == TCP_PASSING;

	/* A port used again while the last connection lingers is a new connection. */
	if (known && alive(known, now) && !(closing && (packet.flags & SYN_OR_ACK) == SYN_ONLY)) {
		touch(known, &packet, now);
		flow = *known;
	} else {
		u32 backend = 0;

		switch (choose(vip, &backend)) {
		case CHOSEN:
			break;
		case NO_BACKEND:
			return reject(skb, &packet);
		default:
			return TC_ACT_OK;
		}
		if (open_flow(&packet, now, &flow, backend) < 0)
			return TC_ACT_SHOT;
	}
	remember_fragment(&packet, flow.source, flow.destination, flow.kind);
	return forward(skb, &packet, flow.source, flow.destination, flow.kind);
}

int to_container(struct __sk_buff *skb)
{
	struct packet packet = {}, quoted = {};
	u8 type = 0;

	if (skb->protocol != bpf_htons(ETH_P_IP) || read_ip(skb, NETWORK, &packet) < 0)
		return TC_ACT_OK;
	if (packet.fragment & OFFSET) {
		struct fragment *first = find_fragment(&packet);

		if (first && first->kind == TO_CLIENT)
			readdress(skb, &packet, first->source, first->destination);
		return TC_ACT_OK;
	}
	if (is_error(skb, &packet, &type)) {
		u32 inner = packet.transport + sizeof(struct icmphdr);

		if (read_ip(skb, inner, &quoted) < 0)
			return TC_ACT_OK;
		struct flow_key key = {quoted.destination, quoted.source, quoted.destination_port, quoted.source_port,
				       quoted.protocol};
		struct flow *flow = flows.lookup(&key);

		if (!flow || flow->kind != TO_CLIENT)
			return TC_ACT_OK;
		u32 vip = flow->vip;

		requote(skb, inner, offsetof(struct iphdr, daddr), quoted.destination, vip);
		if (packet.source == quoted.destination) /* the backend itself complains */
			readdress(skb, &packet, vip, packet.destination);
		return TC_ACT_OK;
	}
	if (!has_ports(packet.protocol))
		return TC_ACT_OK;
	struct flow_key key = {packet.source, packet.destination, packet.source_port, packet.destination_port,
			       packet.protocol};
	struct flow *flow = flows.lookup(&key);
	u64 now = bpf_ktime_get_ns();

	if (!flow || flow->kind != TO_CLIENT || !alive(flow, now))
		return TC_ACT_OK;
	touch(flow, &packet, now);
	u32 source = flow->source, destination = flow->destination;

	remember_fragment(&packet, source, destination, TO_CLIENT);
	readdress(skb, &packet, source, destination);
	return TC_ACT_OK;
}
