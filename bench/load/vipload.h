/* vipload: the server of every backend, and the clients that measure the cost of reaching it. */
#ifndef VIPLOAD_H
#define VIPLOAD_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

enum { TARGETS = 1024, SOURCES = 256, BACKENDS = 256, STATES = 10 };

int serve(int argc, char **argv);
int load(int argc, char **argv);
int datagrams(int argc, char **argv);
int stream(int argc, char **argv);
int gap(int argc, char **argv);

/* -- arguments: each function exits with a usage error that names the option ----------------------------------- */

/* Parses an address such as "10.0.0.2:80". */
struct sockaddr_in parse_address(const char *text);
/* Parses a decimal number within bounds. */
long parse_number(const char *option, const char *text, long least, long most);
/* Parses comma-separated addresses into `targets`. */
void parse_targets(char *text);
/* Parses `--name value` pairs. Calls `take` for each; it returns 0 for an option that it does not know. */
void parse_options(int argc, char **argv, int (*take)(const char *option, char *value));
void __attribute__((noreturn, format(printf, 1, 2))) usage_error(const char *format, ...);
void __attribute__((noreturn)) fail(const char *what);

extern struct sockaddr_in targets[TARGETS];
extern long target_count;

/* -- measuring -------------------------------------------------------------------------------------------------- */

/* The kernel's counters. The clock is read last before a run and first after it. */
struct counters {
	uint64_t clock, states[STATES], syn_retransmits, retransmits;
	struct rusage usage;
};
struct counters count_before(void);
struct counters count_after(void);
uint64_t now(void); /* nanoseconds, monotonic */
/* Raises the limit of open files to `count` and some more for the program itself. */
void allow_files(long count);

/* Prints "connect_p50_us":...,"connect_p90_us":... and so on: the figures of one latency in microseconds, by their names
 * in bench/documents/metrics.py. They are exact percentiles by nearest rank. Values of 0 are left out; values are `stride`
 * bytes apart. If no value is left, it prints nothing. Returns the comma that belongs before the next figure. */
const char *print_latencies(const char *comma, const char *name, const uint32_t *first, size_t stride, uint64_t count);
/* Prints ,"backends":{"1":...} */
void print_backends(const uint64_t counts[BACKENDS]);
/* Prints ,"syn_retransmits":...,"stat_ns":{...} and the other counters. */
void print_counters(const struct counters *from, const struct counters *to);

#endif
