/* The longest time between two answers. Datagrams are exchanged one at a time until the end of stdin, so that the caller
 * decides how long that is. Any answer ends a gap, even a late one, and so does the end of stdin.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vipload.h"

enum { WARMUP = 100, PATIENCE = 100 };

static long timeout_ms = 100;

static int take_option(const char *option, char *value)
{
	if (!strcmp(option, "--to"))
		parse_targets(value);
	else if (!strcmp(option, "--timeout"))
		timeout_ms = parse_number(option, value, 1, 3600000);
	else
		return 0;
	return 1;
}

int gap(int argc, char **argv)
{
	parse_options(argc, argv, take_option);
	if (target_count != 1)
		usage_error("gap needs --to with one target");
	int handle = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (handle < 0 || connect(handle, (struct sockaddr *)targets, sizeof *targets))
		fail("socket");
	mlockall(MCL_CURRENT); /* so that no page fault makes a gap; it is no failure if this is not permitted */
	struct pollfd watched[] = {{.fd = handle, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	uint64_t answers = 0, lost = 0, longest = 0, begun = 0, last = 0, time;
	char datagram[8] = "";
	for (;;) {
		/* A send or a receive that fails has no answer, as if the datagram were lost on its way. */
		(void)!send(handle, datagram, sizeof datagram, MSG_NOSIGNAL);
		int ready = poll(watched, 2, timeout_ms), answered = 0;
		if (ready < 0)
			fail("poll");
		while (watched[0].revents && recv(handle, datagram, sizeof datagram, 0) > 0)
			answered = 1;
		time = now();
		if (begun && time - last > longest)
			longest = time - last;
		if (watched[1].revents && read(STDIN_FILENO, datagram, 1) <= 0)
			break;
		if (!answered) {
			if (++lost == PATIENCE && !begun) {
				errno = ETIMEDOUT;
				fail("no answer");
			}
			continue;
		}
		last = time;
		answers++;
		if (!begun && answers == WARMUP) {
			begun = time;
			answers = lost = 0;
			printf("ready\n");
			fflush(stdout);
		}
	}
	printf("{\"elapsed_ns\":%lu,\"answers\":%lu,\"lost\":%lu,\"longest_ns\":%lu}\n", begun ? time - begun : 0,
	       answers, lost, longest);
	return 0;
}
