/* Requests and replies by UDP: C flows, with one request under way in each. Counts the replies of each backend, and the
 * requests that were lost or answered late.
 *
 * A flow is a connected socket. With --fresh every exchange has a new flow of two datagrams. The first datagram pays
 * for a new connection on the way (a table entry, the choice of a backend); the second does not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vipload.h"

struct request { /* the server answers with its id in place of the first byte */
	unsigned char backend;
	char pad[3];
	uint32_t number;
};
struct flow {
	int handle;
	uint32_t number; /* the number of the request under way, from 1 */
	uint64_t sent;
};
struct sample {
	uint32_t first_ns, next_ns;
};

static struct flow *flows;
static struct sample *samples;
static uint64_t backends[BACKENDS], begun, done, answered, lost, late, refused, wanted, opened;
static long exchanges, warmup, concurrency, fresh, timeout_ms = 1000;
static int poller;

static void open_flow(struct flow *flow)
{
	struct sockaddr_in *target = &targets[opened++ % target_count];
	flow->handle = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (flow->handle < 0 || connect(flow->handle, (struct sockaddr *)target, sizeof *target))
		fail("socket");
	flow->number = 0;
	struct epoll_event event = {EPOLLIN, {.u64 = flow - flows}};
	if (epoll_ctl(poller, EPOLL_CTL_ADD, flow->handle, &event))
		fail("epoll_ctl");
}

static void ask(struct flow *flow)
{
	struct request request = {.number = ++flow->number};
	flow->sent = now();
	/* A refusal of the previous request (ECONNREFUSED) is reported once, here or by recv(). The next send goes
	 * out. */
	if (send(flow->handle, &request, sizeof request, MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED) {
		refused++;
		(void)!send(flow->handle, &request, sizeof request, MSG_NOSIGNAL);
	}
}

/* Begins the next exchange of a flow, if one is left to make. */
static void next(struct flow *flow)
{
	if (begun == wanted) {
		close(flow->handle);
		flow->handle = -1;
		return;
	}
	begun++;
	if (fresh && flow->number) {
		close(flow->handle);
		open_flow(flow);
	}
	ask(flow);
}

static void take_reply(struct flow *flow, const struct request *reply)
{
	if (reply->number != flow->number) { /* its time was up, or it was overtaken */
		late++;
		return;
	}
	uint32_t elapsed = now() - flow->sent;
	backends[reply->backend]++;
	if (fresh && flow->number == 1) {
		samples[answered].first_ns = elapsed;
		ask(flow);
		return;
	}
	samples[answered++].next_ns = elapsed;
	done++;
	next(flow);
}

/* Receives one datagram in each turn. On one processor the next reply is often there before send() returns, so a flow
 * that is served until it pauses would keep all others waiting. */
static void receive(struct flow *flow)
{
	struct request reply;
	ssize_t got = recv(flow->handle, &reply, sizeof reply, 0);
	if (got == sizeof reply)
		take_reply(flow, &reply);
	else if (got < 0 && errno == ECONNREFUSED)
		refused++;
}

static void expire(uint64_t time)
{
	for (long i = 0; i < concurrency; i++)
		if (flows[i].handle >= 0 && time - flows[i].sent > timeout_ms * 1000000ull) {
			lost++;
			done++;
			next(&flows[i]);
		}
}

static void run(uint64_t count)
{
	begun = done = answered = lost = late = refused = opened = 0;
	wanted = count;
	memset(backends, 0, sizeof backends);
	memset(samples, 0, count * sizeof *samples);
	for (long i = 0; i < concurrency; i++) {
		open_flow(&flows[i]);
		next(&flows[i]);
	}
	uint64_t scanned = now();
	while (done < wanted) {
		struct epoll_event events[256];
		int ready = epoll_wait(poller, events, 256, 50);
		for (int i = 0; i < ready; i++)
			receive(&flows[events[i].data.u64]);
		uint64_t time = now();
		if (time - scanned > 50000000) {
			expire(time);
			scanned = time;
		}
	}
}

static int take_option(const char *option, char *value)
{
	if (!strcmp(option, "--to"))
		parse_targets(value);
	else if (!strcmp(option, "--exchanges"))
		exchanges = parse_number(option, value, 1, 100000000);
	else if (!strcmp(option, "--concurrency"))
		concurrency = parse_number(option, value, 1, 100000);
	else if (!strcmp(option, "--warmup"))
		warmup = parse_number(option, value, 0, 100000000);
	else if (!strcmp(option, "--timeout"))
		timeout_ms = parse_number(option, value, 1, 3600000);
	else if (!strcmp(option, "--fresh"))
		fresh = parse_number(option, value, 0, 1);
	else
		return 0;
	return 1;
}

int datagrams(int argc, char **argv)
{
	parse_options(argc, argv, take_option);
	if (!target_count || !exchanges || !concurrency)
		usage_error("udp needs --to, --exchanges and --concurrency");
	allow_files(concurrency);
	poller = epoll_create1(EPOLL_CLOEXEC);
	flows = calloc(concurrency, sizeof *flows);
	samples = calloc(exchanges > warmup ? exchanges : warmup, sizeof *samples);
	if (poller < 0 || !flows || !samples)
		fail("set-up");
	if (warmup)
		run(warmup);
	memset(samples, 1, exchanges * sizeof *samples);
	struct counters from = count_before();
	run(exchanges);
	struct counters to = count_after();
	printf("{\"exchanges\":%lu,\"concurrency\":%ld,\"elapsed_ns\":%lu,\"ok\":%lu,\"lost\":%lu,\"late\":%lu,"
	       "\"refused\":%lu",
	       wanted, concurrency, to.clock - from.clock, answered, lost, late, refused);
	print_backends(backends);
	printf(",\"figures\":{");
	const char *comma = print_latencies("", "first", &samples->first_ns, sizeof *samples, answered);
	print_latencies(comma, "next", &samples->next_ns, sizeof *samples, answered);
	printf("}");
	print_counters(&from, &to);
	printf("}\n");
	return 0;
}
