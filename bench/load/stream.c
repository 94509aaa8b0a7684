/* Sends N bytes through one connection as fast as possible. The server tells how many it received. */
#define _GNU_SOURCE
#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vipload.h"

static uint64_t bytes;

static int take_option(const char *option, char *value)
{
	if (!strcmp(option, "--to"))
		parse_targets(value);
	else if (!strcmp(option, "--bytes"))
		bytes = parse_number(option, value, 1, 1l << 40);
	else
		return 0;
	return 1;
}

int stream(int argc, char **argv)
{
	static char block[128 << 10];
	parse_options(argc, argv, take_option);
	if (target_count != 1 || !bytes)
		usage_error("stream needs one --to, and --bytes");
	memset(block, 's', sizeof block); /* the first byte makes the server count the others */
	int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (handle < 0 || connect(handle, (struct sockaddr *)&targets[0], sizeof *targets))
		fail("connect");
	if (send(handle, "s", 1, MSG_NOSIGNAL) != 1 || recv(handle, block, 1, 0) != 1)
		fail("greeting");
	struct counters from = count_before();
	for (uint64_t left = bytes; left;) {
		ssize_t sent = send(handle, block, left < sizeof block ? left : sizeof block, MSG_NOSIGNAL);
		if (sent < 0)
			fail("send");
		left -= sent;
	}
	uint64_t got = 0;
	if (shutdown(handle, SHUT_WR) || recv(handle, &got, sizeof got, MSG_WAITALL) != sizeof got)
		fail("the server's count");
	struct counters to = count_after();
	printf("{\"bytes\":%lu,\"elapsed_ns\":%lu", le64toh(got), to.clock - from.clock);
	print_counters(&from, &to);
	printf("}\n");
	return le64toh(got) != bytes;
}
