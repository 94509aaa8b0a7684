/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs in the socket calls of a container. connect() and sendmsg() to a VIP go to a backend instead, and
 * recvmsg() and getpeername() return the VIP instead of the backend. No packet ever carries the VIP.
 *
 * An IPv6 socket that is given an IPv4-mapped address (RFC 4291, 2.5.5.2) sends IPv4 packets; Java and .NET use such
 * sockets. The kernel calls its IPv6 hooks for it, except in sendmsg(): udpv6_sendmsg() hands a mapped address to
 * udp_sendmsg(), which calls the IPv4 hook (net/ipv6/udp.c). */

#include "services.h"

struct socket_peer {
	u64 cookie;
	u32 address;
	u32 port; /* as in struct bpf_sock_addr: network order in the low half */
};

BPF_F_TABLE("lru_hash", struct socket_peer, u32, vips, 1, 0);  /* socket, backend, port -> VIP */
BPF_F_TABLE("lru_hash", struct socket_peer, u32, flows, 1, 0); /* unconnected UDP: socket, VIP, port -> backend */

static int (*const set_retval)(int) = (void *)187; /* bpf_set_retval, which older versions of bcc do not declare */

#define ECONNREFUSED 111
#define REFUSE 0
#define PROCEED 1

static __always_inline void remember(struct bpf_sock_addr *ctx, u32 vip, u32 backend)
{
	struct socket_peer key = {bpf_get_socket_cookie(ctx), backend, ctx->user_port};

	vips.update(&key, &vip);
}

/* Handles connect() to `address`. If that is a VIP, it is replaced by a backend's address. */
static __always_inline int connect_to(struct bpf_sock_addr *ctx, u32 *address)
{
	u32 backend = 0;

	switch (choose(*address, &backend)) {
	case NO_BACKEND:
		set_retval(-ECONNREFUSED);
		return REFUSE;
	case CHOSEN:
		remember(ctx, *address, backend);
		*address = backend;
	default:
		return PROCEED;
	}
}

/* Returns the VIP by which this socket knows the peer at `address`, or NULL. */
static __always_inline u32 *known_by(struct bpf_sock_addr *ctx, u32 address)
{
	struct socket_peer key = {bpf_get_socket_cookie(ctx), address, ctx->user_port};

	return vips.lookup(&key);
}

static __always_inline int is_mapped(struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == bpf_htonl(0xffff);
}

int on_connect4(struct bpf_sock_addr *ctx)
{
	u32 address = ctx->user_ip4;
	int verdict = connect_to(ctx, &address);

	ctx->user_ip4 = address;
	return verdict;
}

int on_connect6(struct bpf_sock_addr *ctx)
{
	if (!is_mapped(ctx))
		return PROCEED;
	u32 address = ctx->user_ip6[3];
	int verdict = connect_to(ctx, &address);

	ctx->user_ip6[3] = address;
	return verdict;
}

/* The kernel does not call this for connected IPv4 sockets (net/ipv4/udp.c, udp_sendmsg). They stay with the backend
 * that connect() chose. */
int on_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct socket_peer key = {bpf_get_socket_cookie(ctx), ctx->user_ip4, ctx->user_port};
	u32 *known = flows.lookup(&key);
	u32 backend = known ? *known : 0;

	if (!known) {
		switch (choose(ctx->user_ip4, &backend)) {
		case NO_SERVICE:
			return PROCEED;
		case NO_BACKEND:
			set_retval(-ECONNREFUSED);
			return REFUSE;
		case CHOSEN:
			flows.update(&key, &backend);
		}
	}
	remember(ctx, ctx->user_ip4, backend);
	ctx->user_ip4 = backend;
	return PROCEED;
}

/* The programs below always return PROCEED: the verifier accepts no other value for recvmsg() and getpeername(). */

static __always_inline int turn_back4(struct bpf_sock_addr *ctx)
{
	u32 *vip = known_by(ctx, ctx->user_ip4);

	if (vip)
		ctx->user_ip4 = *vip;
	return PROCEED;
}

static __always_inline int turn_back6(struct bpf_sock_addr *ctx)
{
	u32 *vip = is_mapped(ctx) ? known_by(ctx, ctx->user_ip6[3]) : NULL;

	if (vip)
		ctx->user_ip6[3] = *vip;
	return PROCEED;
}

int on_recvmsg4(struct bpf_sock_addr *ctx)
{
	return turn_back4(ctx);
}

int on_recvmsg6(struct bpf_sock_addr *ctx)
{
	return turn_back6(ctx);
}

int on_getpeername4(struct bpf_sock_addr *ctx)
{
	return turn_back4(ctx);
}

int on_getpeername6(struct bpf_sock_addr *ctx)
{
	return turn_back6(ctx);
}
