/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* How a segment changes the state of its connection, and how long a connection in a state may be idle. The facts are
 * those of connection tracking (net/netfilter/nf_conntrack_proto_tcp.c: tcp_conntracks, tcp_timeouts). SCTP's chunks
 * correspond to TCP's segments (packet.h), so one table serves both. */

#define SECOND 1000000000ULL

enum state {
	NO, /* no state yet */
	SS, /* SYN_SENT */
	SR, /* SYN_RECV */
	ES, /* ESTABLISHED */
	FW, /* FIN_WAIT: one side has closed */
	CW, /* CLOSE_WAIT: the other side has acknowledged that */
	LA, /* LAST_ACK: both sides have closed */
	TW, /* TIME_WAIT: the second close is acknowledged too */
	CL, /* CLOSE: the connection is reset */
	S2, /* SYN_SENT2: both sides have sent a SYN */
	IV, /* not a state: the segment is invalid */
	IG, /* not a state: the segment is ignored */
};

/* A row of the table has ten values of four bits, one for each state. */
#define ROW(no, ss, sr, es, fw, cw, la, tw, cl, s2)                                                                    \
	((u64)(no) | (u64)(ss) << 4 | (u64)(sr) << 8 | (u64)(es) << 12 | (u64)(fw) << 16 | (u64)(cw) << 20 |           \
	 (u64)(la) << 24 | (u64)(tw) << 28 | (u64)(cl) << 32 | (u64)(s2) << 36)
#define COLUMN(row, state) ((row) >> 4 * (state) & 15)

/* clang-format off */
/*                               NO  SS  SR  ES  FW  CW  LA  TW  CL  S2 */
#define CLIENTS_SYN          ROW(SS, SS, IG, IG, IG, IG, IG, SS, SS, S2)
#define CLIENTS_SYNACK       ROW(IV, IV, SR, IV, IV, IV, IV, IV, IV, SR)
#define CLIENTS_FIN          ROW(IV, IV, FW, FW, LA, LA, LA, TW, CL, IV)
#define CLIENTS_ACK          ROW(ES, IV, ES, ES, CW, CW, TW, TW, CL, IV)
#define SERVERS_SYN          ROW(IV, S2, IV, IV, IV, IV, IV, IV, IV, S2)
#define SERVERS_SYNACK       ROW(IV, SR, IG, IG, IG, IG, IG, IG, IG, SR)
#define SERVERS_FIN          ROW(IV, IV, FW, FW, LA, LA, LA, TW, CL, IV)
#define SERVERS_ACK          ROW(IV, IG, SR, ES, CW, CW, TW, TW, CL, IG)
#define ANYBODYS_RST         ROW(IV, CL, CL, CL, CL, CL, CL, CL, CL, CL)
#define ANYTHING_ELSE        ROW(IV, IV, IV, IV, IV, IV, IV, IV, IV, IV)
#define TENS_OF_SECONDS_IDLE ROW(0, 12,  6,  0, 12,  6,  3, 12,  1, 12) /* ES is in idle_time() below */
/* clang-format on */

#define TCP_ESTABLISHED (432000 * SECOND)
#define UNACKNOWLEDGED (300 * SECOND)   /* one side has sent data that the other has not acknowledged */
#define SCTP_ESTABLISHED (210 * SECOND) /* nf_conntrack_proto_sctp.c: seven heartbeats */
#define UDP_UNANSWERED (30 * SECOND)    /* nf_conntrack_proto_udp.c, udp_timeouts */
#define UDP_STREAM (120 * SECOND)
#define UDP_STREAM_AFTER (2 * SECOND) /* udp_packet: a question and its answer are not a stream yet */

enum side { CLIENT, SERVER };

/* Returns the state after a segment; IV or IG if the segment changes nothing. Each test is of another bit, so that the
 * compiler does not make a lookup table of them: a BPF program here has no memory for constants. */
static __always_inline u32 next_state(u32 state, enum side from, u8 flags)
{
	u64 row;

	if (flags & RST)
		row = ANYBODYS_RST;
	else if (flags & SYN)
		row = flags & ACK ? (from == CLIENT ? CLIENTS_SYNACK : SERVERS_SYNACK)
				  : (from == CLIENT ? CLIENTS_SYN : SERVERS_SYN);
	else if (flags & FIN)
		row = from == CLIENT ? CLIENTS_FIN : SERVERS_FIN;
	else if (flags & ACK)
		row = from == CLIENT ? CLIENTS_ACK : SERVERS_ACK;
	else
		row = ANYTHING_ELSE;
	return COLUMN(row, state);
}

static __always_inline u64 idle_time(u32 state, u8 protocol, int acknowledged)
{
	if (state == ES && !acknowledged)
		return UNACKNOWLEDGED;
	if (state == ES)
		return protocol == IPPROTO_TCP ? TCP_ESTABLISHED : SCTP_ESTABLISHED;
	return COLUMN(TENS_OF_SECONDS_IDLE, state) * 10 * SECOND;
}
