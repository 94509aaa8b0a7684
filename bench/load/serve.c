/* The server of a backend. It tells its id and the addresses it sees, with as little work as possible. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vipload.h"

enum { LISTENERS = 16, BACKLOG = 4096, DATAGRAM = 65536, STREAMS = 4096 };
enum kind { TCP, UDP, UDP_AS_ASKED };
static const char *const kind_options[] = {"--tcp", "--udp", "--udp-as-asked"};
static unsigned char id;
static uint64_t swallowed[STREAMS]; /* by descriptor: 1 + the bytes received by a connection that began with "s" */

static int listener(enum kind kind, long port)
{
	int type = kind == TCP ? SOCK_STREAM : SOCK_DGRAM;
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, handle = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (handle < 0)
		fail("socket");
	setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (type == SOCK_DGRAM) { /* ask for the destination address and the TTL of each datagram */
		setsockopt(handle, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
		setsockopt(handle, IPPROTO_IP, IP_RECVTTL, &one, sizeof one);
	}
	if (bind(handle, (struct sockaddr *)&address, sizeof address))
		fail("bind");
	if (type == SOCK_STREAM && listen(handle, BACKLOG))
		fail("listen");
	return handle;
}

/* Writes "ID SOURCE PORT DESTINATION PORT TTL": what this backend sees of a client. TTL is 0 for TCP. */
static int who(char *text, size_t size, const struct sockaddr_in *peer, const struct sockaddr_in *self, int ttl)
{
	char from[INET_ADDRSTRLEN], to[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &peer->sin_addr, from, sizeof from);
	inet_ntop(AF_INET, &self->sin_addr, to, sizeof to);
	return snprintf(text, size, "%d %s %d %s %d %d\n", id, from, ntohs(peer->sin_port), to, ntohs(self->sin_port),
			ttl);
}

static void say_who(int handle, int http)
{
	struct sockaddr_in peer = {0}, self = {0};
	socklen_t length = sizeof peer;
	char line[128], text[256];
	getpeername(handle, (struct sockaddr *)&peer, &length);
	length = sizeof self;
	getsockname(handle, (struct sockaddr *)&self, &length);
	int size = who(line, sizeof line, &peer, &self, 0);
	const char *head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s";
	int length_text = snprintf(text, sizeof text, head, size, line);
	if (send(handle, http ? text : line, http ? length_text : size, MSG_NOSIGNAL) < 0 || http)
		close(handle);
}

/* Reads and counts all bytes that have arrived. At the end of the stream it sends their number. */
static void swallow(int handle)
{
	static char block[256 << 10];
	ssize_t got;
	while ((got = recv(handle, block, sizeof block, 0)) > 0)
		swallowed[handle] += got;
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	uint64_t count = htole64(swallowed[handle] - 1);
	swallowed[handle] = 0;
	(void)!send(handle, &count, sizeof count, MSG_NOSIGNAL);
	close(handle);
}

static void answer(int handle)
{
	if (handle < STREAMS && swallowed[handle]) {
		swallow(handle);
		return;
	}
	char request[4096];
	ssize_t got = recv(handle, request, sizeof request, 0);
	if (got == 1 && request[0] == 'w') {
		say_who(handle, 0);
	} else if (got == 1 && request[0] == 's' && handle < STREAMS) {
		swallowed[handle] = 1;
		if (send(handle, "s", 1, MSG_NOSIGNAL) < 0)
			close(handle);
	} else if (got > 4 && !memcmp(request, "GET ", 4)) {
		say_who(handle, 1);
	} else if (got > 0) {
		memset(request, id, got);
		if (send(handle, request, got, MSG_NOSIGNAL) < 0)
			close(handle);
	} else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
		close(handle);
	}
}

/* An ordinary server replies with sendto(), and the kernel takes the source address of the route. A server that wants
 * to reply from the address that the datagram was sent to must say so (ip(7), IP_PKTINFO); few do. */
static void datagram(int handle, enum kind kind)
{
	static char data[DATAGRAM];
	char control[128];
	struct sockaddr_in peer;
	struct iovec vector = {data, sizeof data};
	struct msghdr message = {&peer, sizeof peer, &vector, 1, control, sizeof control, 0};
	ssize_t got = recvmsg(handle, &message, 0);
	if (got <= 0)
		return;
	struct sockaddr_in self = {0};
	socklen_t length = sizeof self;
	getsockname(handle, (struct sockaddr *)&self, &length);
	struct in_pktinfo where = {0};
	int ttl = 0;
	for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
		if (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_PKTINFO)
			memcpy(&where, CMSG_DATA(part), sizeof where);
		if (part->cmsg_level == IPPROTO_IP && part->cmsg_type == IP_TTL)
			memcpy(&ttl, CMSG_DATA(part), sizeof ttl);
	}
	self.sin_addr = where.ipi_addr;
	if (got == 1 && data[0] == 'w')
		got = who(data, sizeof data, &peer, &self, ttl);
	else
		data[0] = id;
	struct in_pktinfo from = {.ipi_spec_dst = where.ipi_addr};
	char out[CMSG_SPACE(sizeof from)] __attribute__((aligned(8))) = {0};
	struct iovec answer = {data, got};
	struct msghdr reply = {&peer, sizeof peer, &answer, 1, NULL, 0, 0};
	if (kind == UDP_AS_ASKED) {
		reply.msg_control = out;
		reply.msg_controllen = sizeof out;
		struct cmsghdr *part = CMSG_FIRSTHDR(&reply);
		*part = (struct cmsghdr){CMSG_LEN(sizeof from), IPPROTO_IP, IP_PKTINFO};
		memcpy(CMSG_DATA(part), &from, sizeof from);
	}
	sendmsg(handle, &reply, MSG_NOSIGNAL);
}

/* Returns the kind of port that an option asks for, or -1. */
static int kind_of(const char *option)
{
	for (int kind = TCP; kind <= UDP_AS_ASKED; kind++)
		if (!strcmp(option, kind_options[kind]))
			return kind;
	return -1;
}

int serve(int argc, char **argv)
{
	enum kind kinds[LISTENERS];
	int listeners[LISTENERS], count = 0, named = 0, poller = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < argc; i++) {
		if (i + 1 == argc)
			usage_error("%s: no value, or no such option", argv[i]);
		const char *option = argv[i++];
		if (!strcmp(option, "--id")) {
			id = parse_number(option, argv[i], 1, 255);
			named = 1;
		} else if (kind_of(option) >= 0 && count < LISTENERS) {
			kinds[count] = kind_of(option);
			listeners[count] = listener(kinds[count], parse_number(option, argv[i], 1, 65535));
			count++;
		} else if (!strcmp(option, "--with-parent")) {
			/* The kernel signals only a death after this call (prctl(2)), so the parent is checked after
			 * it. */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parse_number(option, argv[i], 1, INT_MAX))
				exit(0);
		} else {
			usage_error("%s: no such option, or one too many", option);
		}
	}
	if (!named || !count)
		usage_error("serve needs --id and a port");
	for (int i = 0; i < count; i++) {
		struct epoll_event event = {EPOLLIN, {.u64 = i}};
		epoll_ctl(poller, EPOLL_CTL_ADD, listeners[i], &event);
	}
	/* A page fault that reads a file would delay an answer. The instruction clock skips waiting time, so a short
	 * read can exceed any time-out. It is no failure if locking is not permitted. */
	mlockall(MCL_CURRENT);
	if (write(1, "ready\n", 6) != 6)
		fail("stdout");
	for (;;) {
		struct epoll_event events[256];
		int ready = epoll_wait(poller, events, 256, -1);
		for (int i = 0; i < ready; i++) {
			uint64_t which = events[i].data.u64;
			if (which >= LISTENERS) {
				answer((int)(which - LISTENERS));
			} else if (kinds[which] != TCP) {
				datagram(listeners[which], kinds[which]);
			} else {
				for (int handle; (handle = accept4(listeners[which], NULL, NULL,
								   SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
					struct epoll_event event = {EPOLLIN, {.u64 = (uint64_t)handle + LISTENERS}};
					epoll_ctl(poller, EPOLL_CTL_ADD, handle, &event);
				}
			}
		}
	}
}
