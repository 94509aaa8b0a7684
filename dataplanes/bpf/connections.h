/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The connection table. A connection has one entry, and it is found from both ends, as a conntrack entry is found by
 * its two tuples.
 *
 * A key holds what packets carry: the client, the VIP, both ports, the protocol. Replies carry the backend instead of
 * the VIP, so they have a key of their own. Both keys lead to the connection's place in `flows`, which has as many
 * places as there may be connections.
 *
 * When no place is free, the program goes through the places, from where the last search ended. It frees the place of a
 * connection that is finished, or else of one that nobody has answered. If it finds neither in ROUNDS * ROUND places,
 * it refuses the new connection and counts it. No new connection displaces an established one.
 *
 * A time-out says when a connection may be given up. It does not remove the connection: a later packet still finds it,
 * unless a SYN began another connection or a new connection needed its place. Only UDP, which has no SYN, begins a new
 * connection after the time-out. */

#define ROUNDS 16
#define ROUND 32 /* places in one round; connection tracking looks into 8 chains (early_drop) */

struct key {
	u32 client;
	u32 vip;   /* in the key of replies, the backend */
	u32 ports; /* the client's port and the service's port */
	u32 protocol;
};

struct connection {
	struct key key; /* this key has the VIP */
	u64 until;      /* after this time it has been idle for too long */
	u32 backend;    /* 0: this place is free */
	u32 place;
	u8 state;
	u8 marks;
	u16 begun; /* in units of TICK */
	u32 unused;
};

#define ANSWERED 1
#define SYN_IGNORED 2   /* the client opens a connection that the table has as open */
#define STREAM 4        /* a UDP connection with more than a question and its answer */
#define SERVERS_RESET 8 /* the server has reset it, before either side closed it */
#define CLIENTS_DATA 16 /* the client has sent data, and the server has sent nothing since */
#define SERVERS_DATA 32
#define ASIDE 64 /* the client of a UDP flow has asked the backend's own address since, from the same port */
#define TICK(now) ((u16)((now) >> 28)) /* in units of about a quarter of a second */

struct settings {
	u32 room; /* the largest number of connections */
};

struct tally {
	u64 used; /* how many places have ever been used */
	u64 hand; /* the place at which the next search begins */
	u64 refused;
};

BPF_F_TABLE("hash", struct key, u32, ends, 1, 0);
BPF_F_TABLE("array", u32, struct connection, flows, 1, 0);
BPF_STACK(vacant, u32, 1, 0);
BPF_PROG_ARRAY(programs, 2);
BPF_F_TABLE("array", u32, struct settings, settings, 1, 0);
BPF_F_TABLE("array", u32, struct tally, tally, 1, 0);

static __always_inline struct key key_of(u32 client, u32 vip, u16 client_port, u16 port, u8 protocol)
{
	struct key key = {client, vip, client_port | (u32)port << 16, protocol};

	return key;
}

/* Finds the connection whose client sends packets with this key. */
static __always_inline struct connection *find(struct key *key)
{
	u32 *place = ends.lookup(key);
	struct connection *found = place ? flows.lookup(place) : 0;

	return found && found->key.vip == key->vip && found->backend ? found : 0;
}

/* Finds the connection whose backend sends packets with this key, which has the backend instead of the VIP. */
static __always_inline struct connection *find_answered(struct key *key)
{
	u32 *place = ends.lookup(key);
	struct connection *found = place ? flows.lookup(place) : 0;

	return found && found->backend == key->vip ? found : 0;
}

/* Enters the key of replies. A backend that is sent to itself has none: it replies to the VIP, not to the client. */
static __always_inline void expect_answers(struct connection *connection)
{
	struct key answer = connection->key;
	u32 place = connection->place;

	answer.vip = connection->backend;
	if (answer.vip != answer.client)
		ends.update(&answer, &place);
}

/* Removes the key of replies, unless it now leads to a connection through another VIP to the same backend and port. */
static __always_inline void expect_no_answers(struct connection *connection)
{
	struct key answer = connection->key;

	answer.vip = connection->backend;
	u32 *place = ends.lookup(&answer);

	if (place && *place == connection->place)
		ends.delete(&answer);
}

/* Removes a connection. Returns false if another CPU is just removing it. */
static __always_inline int give_up(struct connection *connection)
{
	struct key key = connection->key;
	u32 place = connection->place;

	if (ends.delete(&key))
		return 0;
	expect_no_answers(connection);
	connection->backend = 0;
	vacant.push(&place, 0);
	return 1;
}

/* The difference is signed, because another CPU may have seen a later packet than this CPU's clock tells. */
static __always_inline int is_over(struct connection *connection, u64 now)
{
	return (s64)(connection->until - now) < 0;
}

#define BIT(state) (1 << (state))

static __always_inline int is_finished(struct connection *connection, u64 now)
{
	return is_over(connection, now) || (BIT(LA) | BIT(TW) | BIT(CL)) >> connection->state & 1;
}

static __always_inline int is_unanswered(struct connection *connection)
{
	return !(connection->marks & ANSWERED) || (BIT(SS) | BIT(SR) | BIT(S2)) >> connection->state & 1;
}

/* The indexes of the programs: from_container, which needs a place, and make_room, which frees one. */
enum { AGAIN, ROOM };

/* Takes a free place for a new connection. Returns -1 if there is none. */
static __always_inline s64 take_place(void)
{
	u32 zero = 0, place;
	struct settings *settings_ = settings.lookup(&zero);
	struct tally *counts = tally.lookup(&zero);

	if (!vacant.pop(&place))
		return place;
	if (!settings_ || !counts || counts->used >= settings_->room)
		return -1;
	u64 next = __sync_fetch_and_add(&counts->used, 1);

	return next < settings_->room ? next : -1;
}

static __always_inline void start(struct connection *connection, u8 protocol, u8 flags, u32 backend, u64 now)
{
	u32 state = protocol == IPPROTO_UDP ? ES : next_state(NO, CLIENT, flags);

	connection->backend = backend;
	connection->state = state;
	connection->marks = 0;
	connection->begun = TICK(now);
	connection->until = now + (protocol == IPPROTO_UDP ? UDP_UNANSWERED : idle_time(state, protocol, 0));
}

/* Starts a connection in the place of a finished one with the same key. */
static __always_inline void start_over(struct connection *connection, u8 flags, u32 backend, u64 now)
{
	expect_no_answers(connection);
	start(connection, connection->key.protocol, flags, backend, now);
	expect_answers(connection);
}

/* Enters a connection to a backend. If another CPU has just entered it, its backend is taken. */
static __always_inline void enter(struct key *key, u32 place, u8 flags, u32 *backend, u64 now)
{
	struct connection *here = flows.lookup(&place);

	if (!here)
		return;
	here->key = *key;
	here->place = place;
	start(here, key->protocol, flags, *backend, now);
	if (!ends.insert(key, &place)) {
		expect_answers(here);
		return;
	}
	here->backend = 0;
	vacant.push(&place, 0);
	struct connection *others = find(key);

	if (others)
		*backend = others->backend;
}

/* True if the packet begins another connection, with the addresses and ports of this one. A segment in the middle of a
 * connection belongs to this one however late it comes, as long as its place has not been needed. */
static __always_inline int is_another(struct connection *connection, u8 protocol, u8 flags, u64 now)
{
	if (protocol == IPPROTO_UDP)
		return is_over(connection, now);
	if ((flags & (SYN | ACK)) != SYN)
		return 0;
	return connection->state == TW || (connection->state == CL && !(connection->marks & SERVERS_RESET)) ||
	       is_over(connection, now);
}

static __always_inline void go_on_udp(struct connection *connection, enum side from, u64 now)
{
	u8 marks = connection->marks;

	if (marks & ANSWERED && (u16)(TICK(now) - connection->begun) > TICK(UDP_STREAM_AFTER))
		marks |= STREAM;
	connection->until = now + (marks & STREAM ? UDP_STREAM : UDP_UNANSWERED);
	connection->marks = from == SERVER ? marks | ANSWERED : marks & ~ASIDE;
}

/* Updates a connection by a segment. Returns false if the segment is invalid in the connection's state. A reset that
 * comes before any answer ends the connection, and its entry is removed at once (nf_conntrack_tcp_packet). */
static __always_inline int go_on(struct connection *connection, enum side from, struct packet *packet, u64 now)
{
	u8 marks = connection->marks, flags = packet->flags;
	u32 state = connection->state, next = ES;

	/* Most segments change nothing, and need no table. */
	if (state != ES || (flags & (FIN | SYN | RST | ACK)) != ACK) {
		if (flags & RST && !(marks & ANSWERED)) {
			give_up(connection);
			return 1;
		}
		next = next_state(state, from, flags);
		if (next == IV)
			return 0;
		if (next == IG || (state == CL && next == SS)) {
			next = IG;
			if (from == CLIENT && flags & SYN)
				marks |= SYN_IGNORED;
			else if (flags & SYN && marks & SYN_IGNORED) /* the server accepts it: the entry was dead */
				next = SR, marks &= ~(SYN_IGNORED | SERVERS_RESET);
		}
		if (from == SERVER && flags & RST && (state <= ES || state == S2))
			marks |= SERVERS_RESET;
	}
	if (from == SERVER)
		marks = (marks & ~CLIENTS_DATA) | ANSWERED | (has_data(packet) ? SERVERS_DATA : 0);
	else
		marks = (marks & ~SERVERS_DATA) | (has_data(packet) ? CLIENTS_DATA : 0);
	connection->marks = marks;
	if (next == IG)
		return 1;
	connection->state = next;
	connection->until = now + idle_time(next, packet->protocol, !(marks & (CLIENTS_DATA | SERVERS_DATA)));
	return 1;
}
