/* Keeps the guest's only processor from idling while the machine's files are waited for.
 *
 * Under the instruction clock a processor that idles leaps to its next timer. That makes idle time free. It is wrong
 * while the kernel waits for the machine to answer a request for a file: the next timer may be minutes away, and then
 * it depends on the load of the machine which time-outs expire.
 *
 * So a process of the lowest class (SCHED_IDLE, after which everything else goes first) sleeps until a request is made,
 * and then keeps the processor busy until the request is answered. The kernel tells it by the tracepoints of
 * net/9p/client.c: 9p_client_req before a request is sent, 9p_client_res when the answer has been taken. Each wakes the
 * process by the interrupt that perf raises (kernel/events/core.c, perf_event_wakeup), which is served before the
 * requester can sleep. virtiofs has no tracepoints, so this program puts probes on the functions that send its requests
 * (fs/fuse/virtio_fs.c) and on the one that ends them.
 *
 * The time that this process spends is guest time that passes because files are waited for. The process writes it, in
 * nanoseconds, to the beginning of the file `meter`, so that a trial can check that it is small.
 */
#define _GNU_SOURCE
#include "awake.h"

#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RING = 8 * 4096, SPUN = 512 };
/* The port of power-on self-test codes, on which nothing listens. QEMU leaves its translated code to handle it, so this
 * one instruction takes about a microsecond of real time and a nanosecond of guest time. If the process spun on
 * ordinary instructions, a tenth of the real time would pass in the guest. */
enum { POST = 0x80 };
static const uint64_t SECOND = 1000000000;
/* The process stops waiting after this time without any answer. A request whose process is killed has no answer that is
 * counted (net/9p/client.c, p9_client_rpc). On the port this is about four seconds of real time. */
static const uint64_t PATIENCE = 50 * 1000000;

/* Returns the time that this process has spent. Everything else goes first, so the guest has lived through it only by
 * waiting. */
static uint64_t spent(void)
{
	struct timespec time;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

/* Counts a tracepoint's events on the one processor. With `samples` it wakes the process that polls, at each event.
 * Returns -1 if the kernel has no such tracepoint. */
static int tracepoint(const char *tracing, const char *name, int samples)
{
	char path[256], number[16] = "";
	snprintf(path, sizeof path, "%s/events/%s/id", tracing, name);
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -1;
	ssize_t got = read(file, number, sizeof number - 1);
	close(file);
	unsigned long long id;
	if (got <= 0 || sscanf(number, "%llu", &id) != 1)
		return -1;
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof attributes,
		.config = id,
		.sample_period = samples,
		.wakeup_events = samples,
	};
	return syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
}

/* Creates the tracepoint bench/NAME on the first of these functions that the kernel has. */
static void probe(const char *tracing, const char *name, const char *const *functions)
{
	char path[256], line[128];
	snprintf(path, sizeof path, "%s/kprobe_events", tracing);
	int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	for (ssize_t done = -1; file >= 0 && done < 0 && *functions; functions++)
		done = write(file, line, snprintf(line, sizeof line, "p:bench/%s %s\n", name, *functions));
	if (file >= 0)
		close(file);
}

static uint64_t count(int event)
{
	uint64_t value = 0;
	return read(event, &value, sizeof value) == sizeof value ? value : 0;
}

static void __attribute__((noreturn)) watch(int requests, int answers, struct perf_event_mmap_page *ring,
					    uint64_t *meter)
{
	uint64_t lost = 0;
	for (;;) {
		struct pollfd asked = {requests, POLLIN, 0};
		poll(&asked, 1, -1);
		uint64_t heard = spent(), answered = count(answers);
		for (uint64_t open, answer; (open = count(requests) - (answer = count(answers))) != lost;) {
			if (answer != answered)
				answered = answer, heard = spent();
			if (spent() - heard > PATIENCE)
				lost = open;
			for (int i = 0; i < SPUN; i++)
				outb(0, POST);
		}
		*meter = spent();
		/* Without this the ring fills, and then it wakes nobody. */
		ring->data_tail = __atomic_load_n(&ring->data_head, __ATOMIC_ACQUIRE);
	}
}

void stay_awake(const char *tracing, const char *path)
{
	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	int requests = tracepoint(tracing, "9p/9p_client_req", 1), answers = tracepoint(tracing, "9p/9p_client_res", 0);
	if (requests < 0) {
		probe(tracing, "sent",
		      (const char *const[]){"virtio_fs_send_req", "virtio_fs_wake_pending_and_unlock", NULL});
		probe(tracing, "answered", (const char *const[]){"fuse_request_end", NULL});
		requests = tracepoint(tracing, "bench/sent", 1), answers = tracepoint(tracing, "bench/answered", 0);
	}
	if (file < 0 || ftruncate(file, sizeof(uint64_t)) || requests < 0 || answers < 0) {
		fprintf(stderr, "guest init: the clock may leap while files are waited for: no tracepoints of 9p, nor "
				"of virtiofs\n");
		return;
	}
	if (fork())
		return;
	/* The child maps the ring itself: a ring is not copied into a child (kernel/events/core.c, perf_mmap:
	 * VM_DONTCOPY). */
	uint64_t *meter = mmap(NULL, sizeof *meter, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	void *ring = mmap(NULL, 4096 + RING, PROT_READ | PROT_WRITE, MAP_SHARED, requests, 0);
	prctl(PR_SET_NAME, "stay-awake");
	if (meter == MAP_FAILED || ring == MAP_FAILED || ioperm(POST, 1, 1) ||
	    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0}))
		_exit(1);
	watch(requests, answers, ring, meter);
}
