/* Makes N connections, C at a time, in a thread for each processor: connects, sends a byte, receives a byte, closes.
 *
 * Connection i belongs to thread i % T and goes to target i % targets, so the number of threads does not change the
 * targets. On a machine of two processors, a single thread would be the limit: the sender's processor handles a
 * connection's packets as far as the other socket, and the client sends most of them (direct, Linux 6.18: 14,000
 * connections/s with one thread, 17,500 with two).
 *
 * Closed loop: a connection begins when another ends. Open loop (--rate): connection i is due at i / rate, and its
 * latencies count from then, whether or not it could begin. So a stall counts for the connections that it delays (Tene,
 * "How NOT to measure latency"). All memory is allocated and touched before the clock starts, and nothing is random:
 * under an instruction clock two runs execute the same instructions.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vipload.h"

enum error { REFUSED, UNREACHABLE, TIMEOUT_CONNECT, TIMEOUT_REPLY, RESET, END, BAD_REPLY, BIND, OTHER, ERRORS };
static const char *const error_names[ERRORS] = {
	"refused", "unreachable", "timeout_connect", "timeout_reply", "reset", "eof", "bad_reply", "bind", "other"};
static const uint64_t SECOND = 1000000000, STALL = SECOND; /* a second, after which TCP first retransmits a SYN */

struct slot {
	int handle; /* -1: the slot is free */
	long left;  /* requests that are still to be made */
	uint64_t due, connected, asked;
};
struct sample { /* one request; connect_ns is 0 unless it is a connection's first */
	uint32_t connect_ns, request_ns;
};

struct worker { /* a thread, its open connections and the results of its finished ones */
	pthread_t thread;
	int poller;
	long slot_count;
	struct slot *slots;
	struct sample *samples;
	uint64_t begun, wanted, done, answered, ok, stalled, backends[BACKENDS], errors[ERRORS];
};

static long connections, warmup, concurrency, threads, requests = 1, rate, timeout_ms = 5000, reset_on_close;
static const char *raw;
static struct in_addr sources[SOURCES];
static long source_count;
static uint64_t started;
static struct worker *workers;
static pthread_barrier_t warm, go;

static enum error classify(int code, int connected)
{
	switch (code) {
	case ECONNREFUSED:
		return REFUSED;
	case EHOSTUNREACH:
	case ENETUNREACH:
		return UNREACHABLE;
	case ETIMEDOUT:
		return connected ? TIMEOUT_REPLY : TIMEOUT_CONNECT;
	case ECONNRESET:
	case EPIPE:
		return RESET;
	case EADDRNOTAVAIL:
	case EADDRINUSE:
		return BIND;
	default:
		return OTHER;
	}
}

static void release(struct worker *worker, struct slot *slot)
{
	if (slot->handle >= 0)
		close(slot->handle);
	slot->handle = -1;
	worker->done++;
}

static void fail_slot(struct worker *worker, struct slot *slot, enum error error)
{
	worker->errors[error]++;
	release(worker, slot);
}

/* Returns the number of the connection that the worker begins next. */
static uint64_t next(const struct worker *worker)
{
	return worker - workers + worker->begun * threads;
}

/* Returns the time at which that connection is due, in nanoseconds. */
static uint64_t due(const struct worker *worker)
{
	return rate ? started + next(worker) * SECOND / rate : 0;
}

static int bind_source(int handle, uint64_t number)
{
	struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr = sources[number % source_count]};
	/* connect() chooses the port, which then need only be free towards that target. */
	int late = 1;
	setsockopt(handle, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
	return bind(handle, (struct sockaddr *)&source, sizeof source);
}

static void begin(struct worker *worker, struct slot *slot)
{
	uint64_t number = next(worker);
	struct sockaddr_in *target = &targets[number % target_count];
	slot->due = due(worker);
	worker->begun++;
	slot->connected = 0;
	slot->left = requests;
	slot->handle = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (slot->handle < 0)
		fail("socket");
	if (reset_on_close) {
		struct linger hard = {1, 0};
		setsockopt(slot->handle, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	}
	/* The source changes after each round of the targets, so that every source goes to every target. */
	if (source_count && bind_source(slot->handle, number / target_count)) {
		fail_slot(worker, slot, BIND);
		return;
	}
	if (!rate)
		slot->due = now();
	if (connect(slot->handle, (struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
		fail_slot(worker, slot, classify(errno, 0));
		return;
	}
	/* Edge-triggered for both directions, so one registration reports the connection and the replies. */
	struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.u64 = slot - worker->slots}};
	if (epoll_ctl(worker->poller, EPOLL_CTL_ADD, slot->handle, &event))
		fail("epoll_ctl");
}

/* Returns 0 if the connection has failed. */
static int ask(struct worker *worker, struct slot *slot)
{
	slot->left--;
	if (send(slot->handle, "r", 1, MSG_NOSIGNAL) == 1)
		return 1;
	fail_slot(worker, slot, classify(errno, 1));
	return 0;
}

static void take_reply(struct worker *worker, struct slot *slot, unsigned char backend)
{
	uint64_t time = now();
	struct sample *sample = &worker->samples[worker->answered++];
	int first = slot->left == requests - 1;
	sample->connect_ns = first ? slot->connected - slot->due : 0;
	sample->request_ns = time - (first ? slot->connected : slot->asked);
	worker->backends[backend]++;
	if (slot->left) {
		slot->asked = time;
		ask(worker, slot);
		return;
	}
	worker->ok++;
	worker->stalled += time - slot->due > STALL;
	release(worker, slot);
}

static void advance(struct worker *worker, struct slot *slot, uint32_t events)
{
	if (!slot->connected) {
		if (events & (EPOLLERR | EPOLLHUP)) {
			int code = 0;
			socklen_t length = sizeof code;
			getsockopt(slot->handle, SOL_SOCKET, SO_ERROR, &code, &length);
			fail_slot(worker, slot, classify(code ? code : ECONNRESET, 0));
			return;
		}
		slot->connected = now();
		if (!ask(worker, slot) || !(events & EPOLLIN))
			return;
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	unsigned char reply[8];
	ssize_t got = recv(slot->handle, reply, sizeof reply, 0);
	if (got == 1 && reply[0])
		take_reply(worker, slot, reply[0]);
	else if (got > 0)
		fail_slot(worker, slot, BAD_REPLY);
	else if (got == 0)
		fail_slot(worker, slot, END);
	else if (errno != EAGAIN && errno != EINTR)
		fail_slot(worker, slot, classify(errno, 1));
}

static void expire(struct worker *worker, uint64_t time)
{
	for (struct slot *slot = worker->slots; slot < worker->slots + worker->slot_count; slot++)
		if (slot->handle >= 0 && time > slot->due + timeout_ms * 1000000ull * requests)
			fail_slot(worker, slot, slot->connected ? TIMEOUT_REPLY : TIMEOUT_CONNECT);
}

static int may_begin(const struct worker *worker, uint64_t time)
{
	return worker->begun < worker->wanted && (!rate || due(worker) <= time);
}

static void fill(struct worker *worker, uint64_t time)
{
	for (long i = 0; i < worker->slot_count && may_begin(worker, time); i++)
		while (worker->slots[i].handle < 0 && may_begin(worker, time))
			begin(worker, &worker->slots[i]);
}

static int await(const struct worker *worker, struct epoll_event *events, int most)
{
	uint64_t wait = 50000000, time = rate ? now() : 0;
	if (rate && worker->begun < worker->wanted && worker->begun - worker->done < (uint64_t)worker->slot_count)
		wait = due(worker) <= time ? 0 : due(worker) - time < wait ? due(worker) - time : wait;
	struct timespec limit = {0, wait};
	return epoll_pwait2(worker->poller, events, most, &limit, NULL);
}

/* Makes a worker's share of `count` connections. */
static void run(struct worker *worker, uint64_t count)
{
	uint64_t scanned = now();
	worker->wanted = (count + threads - 1 - (worker - workers)) / threads;
	worker->begun = worker->done = worker->ok = worker->answered = worker->stalled = 0;
	memset(worker->backends, 0, sizeof worker->backends);
	memset(worker->errors, 0, sizeof worker->errors);
	fill(worker, scanned);
	while (worker->done < worker->wanted) {
		struct epoll_event events[256];
		int ready = await(worker, events, 256);
		for (int i = 0; i < ready; i++) {
			struct slot *slot = &worker->slots[events[i].data.u64];
			if (slot->handle < 0)
				continue;
			advance(worker, slot, events[i].events);
			while (!rate && slot->handle < 0 && worker->begun < worker->wanted)
				begin(worker, slot);
		}
		uint64_t time = now();
		if (rate)
			fill(worker, time);
		if (time - scanned > 50000000) {
			expire(worker, time);
			fill(worker, time);
			scanned = time;
		}
	}
}

static void *work(void *worker)
{
	run(worker, warmup);
	pthread_barrier_wait(&warm);
	pthread_barrier_wait(&go);
	run(worker, connections);
	return NULL;
}

/* Adds every worker's results to the first worker's. The samples follow one another. */
static void gather(struct worker *all)
{
	for (struct worker *each = all + 1; each < all + threads; each++) {
		memmove(all->samples + all->answered, each->samples, each->answered * sizeof *each->samples);
		all->answered += each->answered;
		all->ok += each->ok;
		all->stalled += each->stalled;
		for (int i = 0; i < BACKENDS; i++)
			all->backends[i] += each->backends[i];
		for (int i = 0; i < ERRORS; i++)
			all->errors[i] += each->errors[i];
	}
}

static void print(const struct worker *all, const struct counters *from, const struct counters *to)
{
	printf("{\"connections\":%ld,\"concurrency\":%ld,\"threads\":%ld,\"elapsed_ns\":%lu,\"ok\":%lu", connections,
	       concurrency, threads, to->clock - from->clock, all->ok);
	printf(",\"requests\":%lu,\"stalled\":%lu,\"errors\":{", all->answered, all->stalled);
	for (int i = 0; i < ERRORS; i++)
		printf("%s\"%s\":%lu", i ? "," : "", error_names[i], all->errors[i]);
	printf("}");
	print_backends(all->backends);
	printf(",\"figures\":{");
	const char *comma =
		print_latencies("", "connect", &all->samples->connect_ns, sizeof *all->samples, all->answered);
	print_latencies(comma, "request", &all->samples->request_ns, sizeof *all->samples, all->answered);
	printf("}");
	print_counters(from, to);
	printf("}\n");
}

static void write_raw(const struct worker *all, const char *path)
{
	FILE *file = fopen(path, "we");
	if (!file || fwrite(all->samples, sizeof *all->samples, all->answered, file) != all->answered || fclose(file))
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
	else if (!strcmp(option, "--threads"))
		threads = parse_number(option, value, 1, 1024);
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

/* By default there is a thread for each processor that the process may use, and no more threads than connections at a
 * time. */
static void count_threads(void)
{
	cpu_set_t processors;
	if (!threads)
		threads = sched_getaffinity(0, sizeof processors, &processors) ? 1 : CPU_COUNT(&processors);
	if (threads > concurrency)
		threads = concurrency;
}

static void employ(uint64_t most)
{
	workers = calloc(threads, sizeof *workers);
	struct slot *slots = calloc(concurrency, sizeof *slots);
	struct sample *samples = calloc((most + threads) * requests, sizeof *samples);
	if (!workers || !slots || !samples)
		fail("set-up");
	for (long i = 0; i < concurrency; i++)
		slots[i].handle = -1;
	for (long i = 0; i < threads; i++) {
		struct worker *worker = &workers[i];
		worker->slots = slots;
		worker->slot_count = concurrency / threads + (i < concurrency % threads);
		worker->samples = samples;
		worker->poller = epoll_create1(EPOLL_CLOEXEC);
		if (worker->poller < 0)
			fail("epoll_create1");
		slots += worker->slot_count;
		samples += (most + threads - 1) / threads * requests;
	}
}

int load(int argc, char **argv)
{
	parse_options(argc, argv, take_option);
	if (!target_count || !connections || !concurrency)
		usage_error("load needs --to, --connections and --concurrency");
	count_threads();
	allow_files(concurrency + threads);
	uint64_t most = connections > warmup ? connections : warmup;
	employ(most);
	pthread_barrier_init(&warm, NULL, threads);
	pthread_barrier_init(&go, NULL, threads);
	started = now();
	for (long i = 1; i < threads; i++)
		if ((errno = pthread_create(&workers[i].thread, NULL, work, &workers[i])))
			fail("pthread_create");
	run(workers, warmup);
	pthread_barrier_wait(&warm);
	memset(workers->samples, 1, (most + threads) * requests * sizeof *workers->samples);
	struct counters from = count_before();
	started = now();
	pthread_barrier_wait(&go);
	run(workers, connections);
	for (long i = 1; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	struct counters to = count_after();
	gather(workers);
	print(workers, &from, &to);
	if (raw)
		write_raw(workers, raw);
	return 0;
}
