/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Service VIPs in the socket calls of a container: connect() and sendmsg() to a VIP go to a backend instead; the address
 * recvmsg() and getpeername() tell is turned back. No packet ever carries the VIP. */

#include "services.h"

struct socket_peer {
	u64 cookie;
	u32 address;
	u32 port; /* as in struct bpf_sock_addr: network order in the low half */
};

BPF_F_TABLE("lru_hash", struct socket_peer, u32, vips, 1, 0);     /* socket, backend, port -> VIP */
BPF_F_TABLE("lru_hash", struct socket_peer, u32, flows, 1, 0);    /* unconnected UDP: socket, VIP, port -> backend */

static int (*const set_retval)(int) = (void *)187; /* bpf_set_retval: older bcc does not name it */

#define ECONNREFUSED 111
#define REFUSE 0
#define PROCEED 1

static __always_inline void redirect(struct bpf_sock_addr *ctx, u32 backend)
{
	struct socket_peer key = {bpf_get_socket_cookie(ctx), backend, ctx->user_port};
	u32 vip = ctx->user_ip4;

	vips.update(&key, &vip);
	ctx->user_ip4 = backend;
}

int on_connect(struct bpf_sock_addr *ctx)
{
	u32 backend = 0;

	switch (choose(ctx->user_ip4, &backend)) {
	case NO_BACKEND:
		set_retval(-ECONNREFUSED);
		return REFUSE;
	case CHOSEN:
		redirect(ctx, backend);
	default:
		return PROCEED;
	}
}

/* Not called for connected sockets (net/ipv4/udp.c, udp_sendmsg): those stay with the backend connect() chose. */
int on_sendmsg(struct bpf_sock_addr *ctx)
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
	redirect(ctx, backend);
	return PROCEED;
}

static __always_inline int turn_back(struct bpf_sock_addr *ctx)
{
	struct socket_peer key = {bpf_get_socket_cookie(ctx), ctx->user_ip4, ctx->user_port};
	u32 *vip = vips.lookup(&key);

	if (vip)
		ctx->user_ip4 = *vip;
	return PROCEED; /* the verifier takes nothing else here */
}

int on_recvmsg(struct bpf_sock_addr *ctx)
{
	return turn_back(ctx);
}

int on_getpeername(struct bpf_sock_addr *ctx)
{
	return turn_back(ctx);
}
