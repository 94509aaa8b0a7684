/* Reads the kernel's counters before and after the load, and prints the results as JSON. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vipload.h"

static const char *const state_names[STATES] = {"user", "nice",    "system", "idle",  "iowait",
						"irq",  "softirq", "steal",  "guest", "guest_nice"};

uint64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

void allow_files(long count)
{
	struct rlimit files = {count + 64, count + 64};
	if (setrlimit(RLIMIT_NOFILE, &files) && count > 900)
		fail("setrlimit");
}

/* Reads a counter of /proc/net/netstat or /proc/net/snmp, in which a line of values follows a line of names. */
static uint64_t read_counter(const char *path, const char *wanted)
{
	static char names[16384], values[16384];
	FILE *file = fopen(path, "re");
	uint64_t found = 0;
	while (file && fgets(names, sizeof names, file) && fgets(values, sizeof values, file)) {
		char *name_rest, *value_rest, *name = strtok_r(names, " \n", &name_rest);
		char *value = strtok_r(values, " \n", &value_rest);
		for (; name && value;
		     name = strtok_r(NULL, " \n", &name_rest), value = strtok_r(NULL, " \n", &value_rest))
			if (!strcmp(name, wanted))
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

static void read_kernel(struct counters *into)
{
	read_states(into->states);
	getrusage(RUSAGE_SELF, &into->usage);
	into->syn_retransmits = read_counter("/proc/self/net/netstat", "TCPSynRetrans");
	into->retransmits = read_counter("/proc/self/net/snmp", "RetransSegs");
}

struct counters count_before(void)
{
	struct counters read = {0};
	read_kernel(&read);
	read.clock = now();
	return read;
}

struct counters count_after(void)
{
	struct counters read = {.clock = now()};
	read_kernel(&read);
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

const char *print_latencies(const char *comma, const char *name, const uint32_t *first, size_t stride, uint64_t count)
{
	static const struct {
		const char *name;
		double share;
	} ranks[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"p99.9", .999}};
	uint32_t *sorted = malloc((count + 1) * sizeof *sorted);
	uint64_t kept = 0;
	for (uint64_t i = 0; i < count; i++) {
		uint32_t value = *(const uint32_t *)((const char *)first + i * stride);
		if (value)
			sorted[kept++] = value;
	}
	qsort(sorted, kept, sizeof *sorted, ascending);
	for (size_t i = 0; kept && i < sizeof ranks / sizeof *ranks; i++) {
		uint32_t value = sorted[(uint64_t)(kept * ranks[i].share + .999999999) - 1];
		printf("%s\"%s_%s_us\":%u.%03u", comma, name, ranks[i].name, value / 1000, value % 1000);
		comma = ",";
	}
	free(sorted);
	return comma;
}

void print_backends(const uint64_t counts[BACKENDS])
{
	const char *comma = "";
	printf(",\"backends\":{");
	for (int i = 0; i < BACKENDS; i++)
		if (counts[i]) {
			printf("%s\"%d\":%lu", comma, i, counts[i]);
			comma = ",";
		}
	printf("}");
}

void print_counters(const struct counters *from, const struct counters *to)
{
	printf(",\"syn_retransmits\":%lu,\"retransmits\":%lu,\"cpu_ns\":{\"user\":%lu,\"system\":%lu},\"stat_ns\":{",
	       to->syn_retransmits - from->syn_retransmits, to->retransmits - from->retransmits,
	       nanoseconds(from->usage.ru_utime, to->usage.ru_utime),
	       nanoseconds(from->usage.ru_stime, to->usage.ru_stime));
	for (int i = 0; i < STATES; i++)
		printf("%s\"%s\":%lu", i ? "," : "", state_names[i], to->states[i] - from->states[i]);
	printf("}");
}
