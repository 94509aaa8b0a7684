/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* How a container's packets to VIPs are handled, and the packets that come back. A program that includes this file
 * defines send_to() first, which sends a packet on to a backend.
 *
 * The client's address stays, except where a backend is sent to itself: there the VIP takes the place of the client's
 * address. Ports never change, so only addresses are rewritten. */

/* The new addresses of a packet, and the direction in which it leaves. */
struct rewrite {
	u32 source;
	u32 destination;
	u32 back; /* 1: to the container that it came from */
};

struct fragment_key {
	u32 source;
	u32 destination;
	u32 id;
	u32 protocol;
};

BPF_F_TABLE("lru_hash", struct fragment_key, struct rewrite, fragments, 1, 0);

/* The fragments that follow carry no ports. They go where the first one goes. */
static __always_inline void remember_fragment(struct packet *packet, struct rewrite *rewrite)
{
	if (!(packet->fragment & MORE_FRAGMENTS))
		return;
	struct fragment_key key = {packet->source, packet->destination, packet->id, packet->protocol};

	fragments.update(&key, rewrite);
}

static __always_inline struct rewrite *find_fragment(struct packet *packet)
{
	struct fragment_key key = {packet->source, packet->destination, packet->id, packet->protocol};

	return fragments.lookup(&key);
}

static __always_inline int forward(struct __sk_buff *skb, struct packet *packet, struct rewrite *rewrite)
{
	readdress(skb, packet, rewrite->source, rewrite->destination);
	return rewrite->back ? send_back(skb) : send_to(skb, rewrite->destination);
}

static __always_inline int is_error(struct __sk_buff *skb, struct packet *packet, u8 *type)
{
	if (packet->protocol != IPPROTO_ICMP || packet->fragment & OFFSET ||
	    bpf_skb_load_bytes(skb, packet->transport, type, 1) < 0)
		return 0;
	return *type == ICMP_DEST_UNREACH || *type == ICMP_TIME_EXCEEDED || *type == ICMP_PARAMETERPROB;
}

/* Takes note of an ICMP error. If the connection has no answer yet, and a smaller packet would not help, the error
 * refuses the connection. */
static __always_inline void hear_of(struct __sk_buff *skb, struct packet *error, u8 type, struct connection *connection)
{
	u8 code = 0;

	if (type != ICMP_DEST_UNREACH || connection->marks & ANSWERED ||
	    bpf_skb_load_bytes(skb, error->transport + 1, &code, 1) < 0 || code == ICMP_FRAG_NEEDED)
		return;
	give_up(connection);
}

/* Forwards an error in which a container complains about a packet from the VIP. The client sees the VIP, but the packet
 * was the backend's, so the backend must receive the error. A backend that was sent to itself receives the error
 * itself, whichever of its two ends complains. */
static __always_inline int complain(struct __sk_buff *skb, struct packet *packet, struct packet *quoted, u8 type,
				    struct connection *connection)
{
	u32 inner = packet->transport + sizeof(struct icmphdr), backend = connection->backend;
	int itself = backend == quoted->destination;
	struct rewrite rewrite = {itself ? quoted->source : packet->source, backend, itself};

	hear_of(skb, packet, type, connection);
	requote(skb, inner, offsetof(struct iphdr, saddr), quoted->source, backend);
	if (itself)
		requote(skb, inner, offsetof(struct iphdr, daddr), backend, quoted->source);
	return forward(skb, packet, &rewrite);
}

/* Lets a connection through a VIP give way to a packet to the backend's own address with the same ports. From now on the
 * backend's packets belong to that: a SYN ends the connection, and a UDP flow stands aside until its client asks the VIP
 * again. */
static __always_inline void give_way(struct packet *packet)
{
	int udp = packet->protocol == IPPROTO_UDP;

	if (!udp && (packet->flags & (SYN | ACK)) != SYN)
		return;
	struct key key = key_of(packet->source, packet->destination, packet->source_port, packet->destination_port,
				packet->protocol);
	struct connection *connection = find_answered(&key);

	if (!connection)
		return;
	if (udp)
		connection->marks |= ASIDE;
	else
		give_up(connection);
}

/* Refuses a packet, because the VIP has no backend or the table is full. The beginning of a connection is refused; a
 * segment of an unknown connection is reset. */
static __always_inline int refuse(struct __sk_buff *skb, struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP && !(packet->flags & SYN) ? reset(skb, packet) : reject(skb, packet);
}

/* Sends a container's packet to a VIP on to a backend, or answers it. */
static __always_inline int to_vip(struct __sk_buff *skb, struct packet *packet, struct service *service)
{
	u32 client = packet->source, vip = packet->destination, backend = 0;
	struct packet about;
	struct key key;
	u8 type = 0;

	if (packet->fragment & OFFSET) {
		struct rewrite *first = find_fragment(packet);

		return first ? forward(skb, packet, first) : TC_ACT_SHOT;
	}
	int error = is_error(skb, packet, &type);

	if (packet->protocol == IPPROTO_ICMP && !error) {
		struct rewrite answer = {vip, client, 1};

		if (type != ICMP_ECHO)
			return TC_ACT_SHOT;
		answer_ping(skb, packet);
		remember_fragment(packet, &answer);
		return forward(skb, packet, &answer);
	}
	if (error) {
		if (read_ip(skb, packet->transport + sizeof(struct icmphdr), &about) < 0)
			return TC_ACT_SHOT;
		key = key_of(about.destination, vip, about.destination_port, about.source_port, about.protocol);
	} else {
		if (!has_ports(packet->protocol))
			return TC_ACT_SHOT;
		key = key_of(client, vip, packet->source_port, packet->destination_port, packet->protocol);
	}

	u64 now = bpf_ktime_get_ns();
	struct connection *connection = find(&key);
	enum side from = CLIENT;

	/* A backend that was sent to itself may be sending from its other end. */
	if (!connection && (packet->flags & (SYN | ACK)) != SYN) {
		struct key own = {key.client, key.vip, key.ports >> 16 | key.ports << 16, key.protocol};
		struct connection *answered = find(&own);

		if (answered && answered->backend == key.client && !is_another(answered, key.protocol, ACK, now))
			connection = answered, from = SERVER;
	}
	if (error)
		return connection && !is_another(connection, key.protocol, ACK, now)
			       ? complain(skb, packet, &about, type, connection)
			       : TC_ACT_SHOT;
	if (connection && (from == SERVER || !is_another(connection, key.protocol, packet->flags, now))) {
		backend = connection->backend;
		if (key.protocol == IPPROTO_UDP)
			go_on_udp(connection, from, now);
		else if (!go_on(connection, from, packet, now))
			return TC_ACT_SHOT;
	} else {
		int begins = key.protocol == IPPROTO_UDP || next_state(NO, CLIENT, packet->flags) < IV;
		s64 place = 0;

		if (!begins)
			return TC_ACT_SHOT;
		if (!service->turns)
			return refuse(skb, packet);
		if (!connection)
			place = take_place();
		if (place < 0) {
			skb->cb[0] = skb->cb[1] = 0;
			programs.call(skb, ROOM);
			return TC_ACT_SHOT;
		}
		if (choose(vip, &backend) != CHOSEN) { /* the service has just lost its last backend */
			u32 unused = place;

			if (!connection)
				vacant.push(&unused, 0);
			return refuse(skb, packet);
		}
		if (connection)
			start_over(connection, packet->flags, backend, now);
		else
			enter(&key, place, packet->flags, &backend, now);
	}
	int itself = backend == client;
	struct rewrite rewrite = {itself ? vip : client, backend, itself};

	remember_fragment(packet, &rewrite);
	return forward(skb, packet, &rewrite);
}

/* Puts the VIP back into a packet that comes to a client: a backend's reply, or an error about a request. Returns false
 * if the packet belongs to no connection through a VIP. */
static __always_inline int put_back(struct __sk_buff *skb, struct packet *packet)
{
	struct packet about;
	struct key key;
	u8 type = 0;

	if (packet->fragment & OFFSET) {
		struct rewrite *first = find_fragment(packet);

		if (!first)
			return 0;
		readdress(skb, packet, first->source, first->destination);
		return 1;
	}
	u32 inner = packet->transport + sizeof(struct icmphdr);
	int error = is_error(skb, packet, &type);

	if (error) { /* the error is about a packet that the container sent */
		if (read_ip(skb, inner, &about) < 0)
			return 0;
		key = key_of(about.source, about.destination, about.source_port, about.destination_port,
			     about.protocol);
	} else {
		if (!has_ports(packet->protocol))
			return 0;
		key = key_of(packet->destination, packet->source, packet->destination_port, packet->source_port,
			     packet->protocol);
	}
	struct connection *connection = find_answered(&key);

	if (!connection)
		return 0;
	u64 now = bpf_ktime_get_ns();
	u32 vip = connection->key.vip;

	if (is_another(connection, key.protocol, ACK, now)) /* a UDP reply that comes too late */
		return 0;
	if (connection->marks & ASIDE) /* it answers a question that did not go to the VIP */
		return 0;

	if (error) {
		hear_of(skb, packet, type, connection);
		requote(skb, inner, offsetof(struct iphdr, daddr), about.destination, vip);
		if (packet->source == about.destination) /* the backend itself complains */
			readdress(skb, packet, vip, packet->destination);
		return 1;
	}
	struct rewrite rewrite = {vip, packet->destination, 0};

	if (packet->protocol == IPPROTO_UDP)
		go_on_udp(connection, SERVER, now);
	else if (!go_on(connection, SERVER, packet, now))
		return 0;
	remember_fragment(packet, &rewrite);
	readdress(skb, packet, rewrite.source, rewrite.destination);
	return 1;
}

static __always_inline int give_up_at(u32 place)
{
	struct connection *connection = flows.lookup(&place);

	return connection && connection->backend && give_up(connection);
}

/* Frees a place in the table. It is a separate program that starts without state, so the verifier goes through the loop
 * once, and not once for every path that leads to it. cb[0] holds the round; cb[1] holds the place of a connection that
 * nobody has answered, plus 1. */
int make_room(struct __sk_buff *skb)
{
	u32 zero = 0, unanswered = skb->cb[1];
	struct settings *here = settings.lookup(&zero);
	struct tally *counts = tally.lookup(&zero);
	struct packet packet = {};
	u64 now = bpf_ktime_get_ns();

	if (!here || !counts)
		return TC_ACT_SHOT;
	u64 hand = __sync_fetch_and_add(&counts->hand, ROUND);

	for (u32 n = 0; n < ROUND; n++) {
		u32 place = (hand + n) % here->room;
		struct connection *connection = flows.lookup(&place);

		if (!connection || !connection->backend)
			continue;
		if (is_finished(connection, now)) {
			if (!give_up(connection))
				continue;
			programs.call(skb, AGAIN);
			return TC_ACT_SHOT;
		}
		if (is_unanswered(connection))
			unanswered = place + 1;
	}
	skb->cb[1] = unanswered;
	if (skb->cb[0]++ < ROUNDS - 1 && skb->cb[0] * ROUND < here->room)
		programs.call(skb, ROOM);
	else if (unanswered && give_up_at(unanswered - 1))
		programs.call(skb, AGAIN);
	__sync_fetch_and_add(&counts->refused, 1);
	return read_ip(skb, NETWORK, &packet) < 0 ? TC_ACT_SHOT : refuse(skb, &packet);
}
