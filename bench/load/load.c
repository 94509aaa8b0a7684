/* Connect, one byte there, one byte back, close: N times, C at a time. A closed loop in one thread.
 *
 * Everything is allocated and touched before the clock starts, nothing is random: under an instruction clock two runs
 * execute the same instructions.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vipload.h"

enum { TARGETS = 256, BACKENDS = 256, STATES = 10 };
enum error { REFUSED, UNREACHABLE, TIMEOUT_CONNECT, TIMEOUT_REPLY, RESET, END, BAD_REPLY, BIND, OTHER, ERRORS };
static const char *const error_names[ERRORS] = {"refused", "unreachable", "timeout_connect", "timeout_reply", "reset",
						"eof", "bad_reply", "bind", "other"};
static const char *const state_names[STATES] = {"user", "nice", "system", "idle", "iowait",
						"irq", "softirq", "steal", "guest", "guest_nice"};

struct slot {
	int handle; /* -1: free */
	uint64_t started, connected;
};
struct sample {
	uint32_t connect_ns, request_ns;
};
struct counters {
	uint64_t clock, states[STATES], syn_retransmits;
	struct rusage usage;
};

static struct sockaddr_in targets[TARGETS];
static struct slot *slots;
static struct sample *samples;
static uint64_t backends[BACKENDS], errors[ERRORS], ok, done, begun, wanted;
static long target_count, concurrency, timeout_ms = 5000, reset_on_close;
static int poller;

static uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

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

static void begin(struct slot *slot)
{
	struct sockaddr_in *target = &targets[begun++ % target_count];
	slot->connected = 0;
	slot->handle = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (slot->handle < 0)
		fail("socket");
	if (reset_on_close) {
		struct linger hard = {1, 0};
		setsockopt(slot->handle, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	}
	slot->started = now();
	if (connect(slot->handle, (struct sockaddr *)target, sizeof *target) && errno != EINPROGRESS) {
		fail_slot(slot, classify(errno, 0));
		return;
	}
	/* Edge-triggered for both directions: one registration sees the connection come up and the reply arrive. */
	struct epoll_event event = {EPOLLIN | EPOLLOUT | EPOLLET, {.u64 = slot - slots}};
	if (epoll_ctl(poller, EPOLL_CTL_ADD, slot->handle, &event))
		fail("epoll_ctl");
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
		if (send(slot->handle, "r", 1, MSG_NOSIGNAL) != 1) {
			fail_slot(slot, classify(errno, 1));
			return;
		}
		if (!(events & EPOLLIN))
			return;
	}
	if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		return;
	unsigned char reply[8];
	ssize_t got = recv(slot->handle, reply, sizeof reply, 0);
	if (got == 1 && reply[0]) {
		samples[done].connect_ns = slot->connected - slot->started;
		samples[done].request_ns = now() - slot->connected;
		backends[reply[0]]++;
		ok++;
		release(slot);
	} else if (got > 0) {
		fail_slot(slot, BAD_REPLY);
	} else if (got == 0) {
		fail_slot(slot, END);
	} else if (errno != EAGAIN && errno != EINTR) {
		fail_slot(slot, classify(errno, 1));
	}
}

static void expire(uint64_t time)
{
	for (long i = 0; i < concurrency; i++)
		if (slots[i].handle >= 0 && time - slots[i].started > timeout_ms * 1000000ull)
			fail_slot(&slots[i], slots[i].connected ? TIMEOUT_REPLY : TIMEOUT_CONNECT);
}

static void fill(void)
{
	for (long i = 0; i < concurrency && begun < wanted; i++)
		while (slots[i].handle < 0 && begun < wanted)
			begin(&slots[i]);
}

static void run(uint64_t connections)
{
	uint64_t scanned = now();
	begun = done = ok = 0;
	wanted = connections;
	memset(backends, 0, sizeof backends);
	memset(errors, 0, sizeof errors);
	memset(samples, 0, connections * sizeof *samples);
	fill();
	while (done < wanted) {
		struct epoll_event events[256];
		int ready = epoll_wait(poller, events, 256, 50);
		for (int i = 0; i < ready; i++) {
			struct slot *slot = &slots[events[i].data.u64];
			if (slot->handle < 0)
				continue;
			advance(slot, events[i].events);
			while (slot->handle < 0 && begun < wanted)
				begin(slot);
		}
		uint64_t time = now();
		if (time - scanned > 50000000) {
			expire(time);
			fill();
			scanned = time;
		}
	}
}

static uint64_t read_syn_retransmits(void)
{
	static char names[16384], values[16384];
	FILE *file = fopen("/proc/self/net/netstat", "re");
	uint64_t found = 0;
	while (file && fgets(names, sizeof names, file) && fgets(values, sizeof values, file)) {
		char *name_rest, *value_rest, *name = strtok_r(names, " \n", &name_rest);
		char *value = strtok_r(values, " \n", &value_rest);
		for (; name && value; name = strtok_r(NULL, " \n", &name_rest), value = strtok_r(NULL, " \n", &value_rest))
			if (!strcmp(name, "TCPSynRetrans"))
				found = strtoull(value, NULL, 10);
	}
	if (file)
		fclose(file);
	return found;
}

static void read_states(uint64_t states[STATES])
{
	FILE *file = fopen("/proc/stat", "re");
	uint64_t tick = 1000000000ull / sysconf(_SC_CLK_TCK);
	if (file && fscanf(file, "cpu") == 0)
		for (int i = 0; i < STATES && fscanf(file, "%lu", &states[i]) == 1; i++)
			states[i] *= tick;
	if (file)
		fclose(file);
}

/* The clock is read last before the run and first after it. */
static struct counters before(void)
{
	struct counters read = {.syn_retransmits = read_syn_retransmits()};
	getrusage(RUSAGE_SELF, &read.usage);
	read_states(read.states);
	read.clock = now();
	return read;
}

static struct counters after(void)
{
	struct counters read = {.clock = now()};
	read_states(read.states);
	getrusage(RUSAGE_SELF, &read.usage);
	read.syn_retransmits = read_syn_retransmits();
	return read;
}

static uint64_t nanoseconds(struct timeval from, struct timeval to)
{
	return (to.tv_sec - from.tv_sec) * 1000000000ll + (to.tv_usec - from.tv_usec) * 1000ll;
}

static int ascending(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return (left > right) - (left < right);
}

/* Exact percentiles of what succeeded, by nearest rank. */
static void print_latencies(const char *name, size_t offset, uint64_t count)
{
	static const struct {
		const char *name;
		double share;
	} ranks[] = {{"min", 0}, {"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
	uint32_t *sorted = malloc((count + 1) * sizeof *sorted);
	uint64_t total = 0, kept = 0;
	for (uint64_t i = 0; i < wanted; i++) {
		uint32_t value = *(uint32_t *)((char *)&samples[i] + offset);
		if (samples[i].connect_ns) {
			sorted[kept++] = value;
			total += value;
		}
	}
	qsort(sorted, kept, sizeof *sorted, ascending);
	printf(",\"%s\":{\"mean\":%.1f", name, kept ? (double)total / kept : 0);
	for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
		uint64_t rank = kept * ranks[i].share + .999999999;
		printf(",\"%s\":%u", ranks[i].name, kept ? sorted[rank ? rank - 1 : 0] : 0);
	}
	printf("}");
	free(sorted);
}

static void print(const struct counters *from, const struct counters *to)
{
	printf("{\"connections\":%lu,\"concurrency\":%ld,\"elapsed_ns\":%lu,\"ok\":%lu,\"errors\":{", wanted, concurrency,
	       to->clock - from->clock, ok);
	for (int i = 0; i < ERRORS; i++)
		printf("%s\"%s\":%lu", i ? "," : "", error_names[i], errors[i]);
	printf("},\"backends\":{");
	for (int i = 0, first = 1; i < BACKENDS; i++)
		if (backends[i]) {
			printf("%s\"%d\":%lu", first ? "" : ",", i, backends[i]);
			first = 0;
		}
	printf("}");
	print_latencies("connect_ns", offsetof(struct sample, connect_ns), ok);
	print_latencies("request_ns", offsetof(struct sample, request_ns), ok);
	printf(",\"syn_retransmits\":%lu,\"cpu_ns\":{\"user\":%lu,\"system\":%lu},\"stat_ns\":{",
	       to->syn_retransmits - from->syn_retransmits, nanoseconds(from->usage.ru_utime, to->usage.ru_utime),
	       nanoseconds(from->usage.ru_stime, to->usage.ru_stime));
	for (int i = 0; i < STATES; i++)
		printf("%s\"%s\":%lu", i ? "," : "", state_names[i], to->states[i] - from->states[i]);
	printf("}}\n");
}

static void write_raw(const char *path)
{
	FILE *file = fopen(path, "we");
	if (!file || fwrite(samples, sizeof *samples, wanted, file) != wanted || fclose(file))
		fail(path);
}

static void parse_targets(char *text)
{
	char *rest;
	for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		if (target_count == TARGETS)
			usage_error("more than %d targets", TARGETS);
		targets[target_count++] = parse_address(one);
	}
}

int load(int argc, char **argv)
{
	long connections = 0, warmup = 0;
	const char *raw = NULL;
	for (int i = 0; i < argc; i += 2) {
		const char *option = argv[i];
		if (i + 1 == argc)
			usage_error("%s: no value, or no such option", option);
		char *value = argv[i + 1];
		if (!strcmp(option, "--to"))
			parse_targets(value);
		else if (!strcmp(option, "--connections"))
			connections = parse_number(option, value, 1, 100000000);
		else if (!strcmp(option, "--concurrency"))
			concurrency = parse_number(option, value, 1, 100000);
		else if (!strcmp(option, "--warmup"))
			warmup = parse_number(option, value, 0, 100000000);
		else if (!strcmp(option, "--timeout"))
			timeout_ms = parse_number(option, value, 1, 3600000);
		else if (!strcmp(option, "--raw"))
			raw = value;
		else if (!strcmp(option, "--close") && (!strcmp(value, "fin") || !strcmp(value, "rst")))
			reset_on_close = value[0] == 'r';
		else
			usage_error("%s %s: no such option or value", option, value);
	}
	if (!target_count || !connections || !concurrency)
		usage_error("load needs --to, --connections and --concurrency");
	struct rlimit files = {concurrency + 64, concurrency + 64};
	if (setrlimit(RLIMIT_NOFILE, &files) && concurrency > 900)
		fail("setrlimit");
	poller = epoll_create1(EPOLL_CLOEXEC);
	slots = calloc(concurrency, sizeof *slots);
	samples = calloc(connections > warmup ? connections : warmup, sizeof *samples);
	if (poller < 0 || !slots || !samples)
		fail("set-up");
	for (long i = 0; i < concurrency; i++)
		slots[i].handle = -1;
	if (warmup)
		run(warmup);
	memset(samples, 1, connections * sizeof *samples);
	struct counters from = before();
	run(connections);
	struct counters to = after();
	print(&from, &to);
	if (raw)
		write_raw(raw);
	return 0;
}
