/* The virtio-serial ports between the guest and the program's own process, and the job that comes on the control port. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "init.h"

static const char *const port_names[PORTS] = {"in", "out", "err", "events", "control"};
int ports[PORTS];

void open_ports(void)
{
	DIR *directory = opendir("/sys/class/virtio-ports");
	if (!directory)
		die("no virtio ports");
	memset(ports, -1, sizeof ports);
	for (struct dirent *entry; (entry = readdir(directory));) {
		char path[512];
		size_t length;
		snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
		char *name = slurp(path, &length);
		name[strcspn(name, "\n")] = 0;
		for (int port = 0; port < PORTS; port++)
			if (!strcmp(name, port_names[port])) {
				snprintf(path, sizeof path, "/dev/%s", entry->d_name);
				ports[port] = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
			}
	}
	closedir(directory);
	for (int port = 0; port < PORTS; port++)
		if (ports[port] < 0)
			die("port %s", port_names[port]);
}

void write_all(int file, const char *data, size_t length)
{
	while (length) {
		ssize_t done = write(file, data, length);
		if (done > 0) {
			data += done;
			length -= done;
		} else if (done == 0 || errno == EAGAIN) { /* a port writes nothing if it has no buffer after all */
			struct pollfd ready = {.fd = file, .events = POLLOUT};
			poll(&ready, 1, -1);
		} else {
			return; /* the other end is closed */
		}
	}
}

static void fetch(char *data, size_t size)
{
	while (size) {
		struct pollfd ready = {ports[CONTROL], POLLIN, 0};
		ssize_t got = read(ports[CONTROL], data, size);
		if (got > 0)
			data += got, size -= got;
		else if (got < 0 && (errno == EAGAIN || errno == EINTR))
			poll(&ready, 1, -1);
		else
			power_off();
	}
}

void await_closing(void)
{
	char ignored[256];
	struct pollfd ready = {ports[CONTROL], POLLIN, 0};
	for (ssize_t got; (got = read(ports[CONTROL], ignored, sizeof ignored));)
		if (got < 0 && errno == EAGAIN)
			poll(&ready, 1, -1);
		else if (got < 0 && errno != EINTR)
			return;
}

void receive_job(void)
{
	static char block[65536];
	for (;;) {
		char line[128], path[256];
		size_t length = 0;
		do
			fetch(line + length, 1);
		while (line[length] != '\n' && ++length < sizeof line - 1);
		line[length] = 0;
		size_t size = strtoull(split(line), NULL, 10);
		if (!strcmp(line, "end"))
			return;
		snprintf(path, sizeof path, "/job/%s", line);
		int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		for (size_t part; size; size -= part) {
			part = size < sizeof block ? size : sizeof block;
			fetch(block, part);
			write_all(file, block, part);
		}
		close(file);
	}
}
