/* Connect, bytes there and back, close: N connections, C at a time, in one thread.
 *
 * Closed loop: a connection begins when another ends. Open loop (--rate): connection i is due at i / rate, and its
 * latencies count from then, whether or not it could begin, so that a stall is not left out by the very wait it causes
 * (Tene, "How NOT to measure latency"). Everything is allocated and touched before the clock starts, nothing is random:
 * under an instruction clock two runs execute the same instructions.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vipload.h"

enum error { REFUSED, UNREACHABLE, TIMEOUT_CONNECT, TIMEOUT_REPLY, RESET, END, BAD_REPLY, BIND, OTHER, ERRORS };
static const char *const error_names[ERRORS] = {"refused", "unreachable", "timeout_connect", "timeout_reply", "reset",
						"eof", "bad_reply", "bind", "other"};
static const uint64_t SECOND = 1000000000, STALL = SECOND; /* the first retransmission of a SYN comes after one */

struct slot {
	int handle; /* -1: free */
	long left;  /* requests to be made */
	uint64_t due, connected, asked;
};
struct sample { /* of a request; connect_ns only of a connection's first */
	uint32_t connect_ns, request_ns;
};

static struct slot *slots;
static struct sample *samples;
static uint64_t backends[BACKENDS], errors[ERRORS], answered, ok, stalled, done, begun, wanted, started;
static long connections, warmup, concurrency, requests = 1, rate, timeout_ms = 5000, reset_on_close;
static const char *raw;
static struct in_addr sources[SOURCES];
static long source_count;
static int poller;

static enum error classify(int code, int connected)
{
	switch (code) {
	case ECONNREFUSED: return REFUSED;
	case EHOSTUNREACH:
	case ENETUNREACH: return UNREACHABLE;
	case ETIMEDOUT: return connected ? TIMEOUT_REPLY : TIMEOUT_CONNECT;
	case ECONNRESET:
	case EPIPE: return RESET;
	case EADDRNOTAVAIL:
	case EADDRINUSE: return BIND;
	default: return OTHER;
	}
}

static void release(struct slot *slot)
{
	if (slot->handle >= 0)
		close(slot->handle);
	slot->handle = -1;
	done++;
}

static void fail_slot(struct slot *slot, enum error error)
{
	errors[error]++;
	release(slot);
}

static uint64_t due(void)
{
	return rate ? started + begun * SECOND / rate : 0;
}

static int bind_source(int handle, uint64_t number)
{
	struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr = sources[number % source_count]};
	int late = 1; /* the port is chosen at connect(), when it need only be free towards that target */
	setsockopt(handle, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
	return bind(handle, (struct sockaddr *)&source, sizeof source);
}

static void begin(struct slot *slot)
{
	uint64_t number = begun;
	struct sockaddr_in *target = &targets[number % target_count];
	slot->due = due();
	begun++;
	slot->connected = 0;
	slot->left = requests;
	slot->handle = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (slot->handle < 0)
		fail("socket");
	if (reset_on_close) {
		struct linger hard = {1, 0};
		setsockopt(slot->handle, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	}
	/* By rounds of the targets, so that every source goes to every target. */
	if (source_count && bind_source(slot->handle, number / target_count)) {
		fail_slot(slot, BIND);
		return;
	}
	if (!rate)
		slot->due = now();
	if (connect(slot->handle, (struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
		fail_slot(slot, classify(errno, 0));
		return;
	}
	/* Edge-triggered for both directions: one registration sees the connection come up and the replies arrive. */
	struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.u64 = slot - slots}};
	if (epoll_ctl(poller, EPOLL_CTL_ADD, slot->handle, &event))
		fail("epoll_ctl");
}

/* 0 if that ended the connection. */
static int ask(struct slot *slot)
{
	slot->left--;
	if (send(slot->handle, "r", 1, MSG_NOSIGNAL) == 1)
		return 1;
	fail_slot(slot, classify(errno, 1));
	return 0;
}

static void take_reply(struct slot *slot, unsigned char backend)
{
	uint64_t time = now();
	struct sample *sample = &samples[answered++];
	int first = slot->left == requests - 1;
	sample->connect_ns = first ? slot->connected - slot->due : 0;
	sample->request_ns = time - (first ? slot->connected : slot->asked);
	backends[backend]++;
	if (slot->left) {
		slot->asked = time;
		ask(slot);
		return;
	}
	ok++;
	stalled += time - slot->due > STALL;
	release(slot);
}

static void advance(struct slot *slot, uint32_t events)
{
	if (!slot->connected) {
		if (events & (EPOLLERR | EPOLLHUP)) {
			int code = 0;
			socklen_t length = sizeof code;
			getsockopt(slot->handle, SOL_SOCKET, SO_ERROR, &code, &length);
			fail_slot(slot, classify(code ? code : ECONNRESET, 0));
			return;
		}
		slot->connected = now();
		if (!ask(slot) || !(events & EPOLLIN))
			return;
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	unsigned char reply[8];
	ssize_t got = recv(slot->handle, reply, sizeof reply, 0);
	if (got == 1 && reply[0])
		take_reply(slot, reply[0]);
	else if (got > 0)
		fail_slot(slot, BAD_REPLY);
	else if (got == 0)
		fail_slot(slot, END);
	else if (errno != EAGAIN && errno != EINTR)
		fail_slot(slot, classify(errno, 1));
}

static void expire(uint64_t time)
{
	for (long i = 0; i < concurrency; i++)
		if (slots[i].handle >= 0 && time > slots[i].due + timeout_ms * 1000000ull * requests)
			fail_slot(&slots[i], slots[i].connected ? TIMEOUT_REPLY : TIMEOUT_CONNECT);
}

static int may_begin(uint64_t time)
{
	return begun < wanted && (!rate || due() <= time);
}

static void fill(uint64_t time)
{
	for (long i = 0; i < concurrency && may_begin(time); i++)
		while (slots[i].handle < 0 && may_begin(time))
			begin(&slots[i]);
}

static int await(struct epoll_event *events, int most)
{
	uint64_t wait = 50000000, time = rate ? now() : 0;
	if (rate && begun < wanted && begun - done < (uint64_t)concurrency)
		wait = due() <= time ? 0 : due() - time < wait ? due() - time : wait;
	struct timespec limit = {0, wait};
	return epoll_pwait2(poller, events, most, &limit, NULL);
}

static void run(uint64_t count)
{
	uint64_t scanned = started = now();
	begun = done = ok = answered = stalled = 0;
	wanted = count;
	memset(backends, 0, sizeof backends);
	memset(errors, 0, sizeof errors);
	memset(samples, 0, count * requests * sizeof *samples);
	fill(started);
	while (done < wanted) {
		struct epoll_event events[256];
		int ready = await(events, 256);
		for (int i = 0; i < ready; i++) {
			struct slot *slot = &slots[events[i].data.u64];
			if (slot->handle < 0)
				continue;
			advance(slot, events[i].events);
			while (!rate && slot->handle < 0 && begun < wanted)
				begin(slot);
		}
		uint64_t time = now();
		if (rate)
			fill(time);
		if (time - scanned > 50000000) {
			expire(time);
			fill(time);
			scanned = time;
		}
	}
}

static void print(const struct counters *from, const struct counters *to)
{
	printf("{\"connections\":%lu,\"concurrency\":%ld,\"elapsed_ns\":%lu,\"ok\":%lu,\"requests\":%lu,\"stalled\":%lu", wanted,
	       concurrency, to->clock - from->clock, ok, answered, stalled);
	printf(",\"errors\":{");
	for (int i = 0; i < ERRORS; i++)
		printf("%s\"%s\":%lu", i ? "," : "", error_names[i], errors[i]);
	printf("}");
	print_backends(backends);
	print_latencies("connect_ns", &samples->connect_ns, sizeof *samples, answered);
	print_latencies("request_ns", &samples->request_ns, sizeof *samples, answered);
	print_counters(from, to);
	printf("}\n");
}

static void write_raw(const char *path)
{
	FILE *file = fopen(path, "we");
	if (!file || fwrite(samples, sizeof *samples, answered, file) != answered || fclose(file))
		fail(path);
}

static void parse_sources(char *text)
{
	char *rest;
	for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		if (source_count == SOURCES)
			usage_error("more than %d sources", SOURCES);
		if (inet_pton(AF_INET, one, &sources[source_count++]) != 1)
			usage_error("%s: not an IPv4 address", one);
	}
}

static int take_option(const char *option, char *value)
{
	if (!strcmp(option, "--to"))
		parse_targets(value);
	else if (!strcmp(option, "--sources"))
		parse_sources(value);
	else if (!strcmp(option, "--connections"))
		connections = parse_number(option, value, 1, 100000000);
	else if (!strcmp(option, "--concurrency"))
		concurrency = parse_number(option, value, 1, 100000);
	else if (!strcmp(option, "--requests"))
		requests = parse_number(option, value, 1, 100000000);
	else if (!strcmp(option, "--rate"))
		rate = parse_number(option, value, 1, 10000000);
	else if (!strcmp(option, "--warmup"))
		warmup = parse_number(option, value, 0, 100000000);
	else if (!strcmp(option, "--timeout"))
		timeout_ms = parse_number(option, value, 1, 3600000);
	else if (!strcmp(option, "--raw"))
		raw = value;
	else if (!strcmp(option, "--close") && (!strcmp(value, "fin") || !strcmp(value, "rst")))
		reset_on_close = value[0] == 'r';
	else
		return 0;
	return 1;
}

int load(int argc, char **argv)
{
	parse_options(argc, argv, take_option);
	if (!target_count || !connections || !concurrency)
		usage_error("load needs --to, --connections and --concurrency");
	allow_files(concurrency);
	uint64_t most = (uint64_t)(connections > warmup ? connections : warmup) * requests;
	poller = epoll_create1(EPOLL_CLOEXEC);
	slots = calloc(concurrency, sizeof *slots);
	samples = calloc(most, sizeof *samples);
	if (poller < 0 || !slots || !samples)
		fail("set-up");
	for (long i = 0; i < concurrency; i++)
		slots[i].handle = -1;
	if (warmup)
		run(warmup);
	memset(samples, 1, most * sizeof *samples);
	struct counters from = count_before();
	run(connections);
	struct counters to = count_after();
	print(&from, &to);
	if (raw)
		write_raw(raw);
	return 0;
}
