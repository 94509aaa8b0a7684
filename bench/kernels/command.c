/* The job's command in the guest: it is started with its streams on the ports, and attended until it ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

static char **vector(const char *path)
{
	size_t length, count = 0;
	char *text = slurp(path, &length);
	char **list = calloc(length + 2, sizeof *list);
	for (char *item = text; item < text + length; item += strlen(item) + 1)
		list[count++] = item;
	return list;
}

/* Copies the bytes that can be read now, and counts them. Returns 0 at the end of the input. */
static int relay(int from, int to, unsigned long long *count)
{
	static char buffer[65536];
	ssize_t got = read(from, buffer, sizeof buffer);
	if (got > 0) {
		write_all(to, buffer, got);
		*count += got;
	}
	return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static pid_t start(int streams[4], int on_terminal)
{
	int master = -1, slave = -1, pipes[4][2];
	if (on_terminal && openpty(&master, &slave, NULL, NULL, NULL))
		die("openpty");
	for (int stream = 0; stream < 4; stream++)
		if (pipe2(pipes[stream], O_CLOEXEC))
			die("pipe");
	pid_t child = fork();
	if (!child) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		if (on_terminal)
			ioctl(slave, TIOCSCTTY, 0);
		dup2(on_terminal ? slave : pipes[IN][0], 0);
		dup2(on_terminal ? slave : pipes[OUT][1], 1);
		dup2(on_terminal ? slave : pipes[ERR][1], 2);
		int events = fcntl(pipes[EVENTS][1], F_DUPFD, 10);
		dup2(events, 3);
		close(events);
		char **argv = vector("/run/bench-job/argv");
		environ = vector("/run/bench-job/env");
		execvp(argv[0], argv);
		fprintf(stderr, "bench: %s: %s\n", argv[0], strerror(errno));
		_exit(errno == ENOENT ? 127 : 126);
	}
	close(pipes[IN][0]);
	for (int stream = OUT; stream <= EVENTS; stream++)
		close(pipes[stream][1]);
	streams[IN] = on_terminal ? master : pipes[IN][1];
	streams[OUT] = on_terminal ? master : pipes[OUT][0];
	streams[ERR] = pipes[ERR][0];
	streams[EVENTS] = pipes[EVENTS][0];
	if (on_terminal)
		fcntl(slave, F_SETFD, FD_CLOEXEC);
	return child;
}

/* Carries out the commands on the control port. `terminal` is -1 if the command has none. Returns 0 when the port is
 * closed. */
static int obey(pid_t child, int terminal)
{
	static char text[256];
	static size_t length;
	ssize_t got = read(ports[CONTROL], text + length, sizeof text - 1 - length);
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
		return 0;
	if (got > 0)
		length += got;
	text[length] = 0;
	for (char *end; (end = strchr(text, '\n'));) {
		struct winsize size = {0};
		if (text[0] == 'S' && kill(-child, atoi(text + 1)))
			kill(child, atoi(text + 1)); /* the child has not created its session yet */
		if (sscanf(text, "W%hu %hu", &size.ws_row, &size.ws_col) == 2 && terminal >= 0)
			ioctl(terminal, TIOCSWINSZ, &size);
		length -= end + 1 - text;
		memmove(text, end + 1, length + 1);
	}
	return 1;
}

static int reap(pid_t child)
{
	int status, code = -1;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		if (pid == child)
			code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return code;
}

/* Relays streams and signals until the command ends, and returns its exit code. */
static int attend(pid_t child, int streams[4], int signals, int on_terminal, unsigned long long written[PORTS])
{
	enum { STDIN, CHILD = PORTS, SIGNALS };
	int code = -1;
	struct pollfd polled[] = {
		[IN] = {ports[IN], POLLIN, 0},           [OUT] = {streams[OUT], POLLIN, 0},
		[ERR] = {streams[ERR], POLLIN, 0},       [EVENTS] = {streams[EVENTS], POLLIN, 0},
		[CONTROL] = {ports[CONTROL], POLLIN, 0}, [CHILD] = {signals, POLLIN, 0},
	};
	while (code < 0) {
		if (poll(polled, sizeof polled / sizeof *polled, -1) < 0)
			continue;
		if (polled[IN].revents) {
			/* The port reads as closed until the program's own process has opened it. It always has: QEMU
			 * waits for that. */
			if (!relay(ports[IN], streams[IN], &written[IN])) {
				if (on_terminal)
					write_all(streams[IN], "\4", 1);
				else
					close(streams[IN]);
				polled[IN].fd = -1;
			}
		}
		for (int stream = OUT; stream <= EVENTS; stream++)
			if (polled[stream].revents && !relay(streams[stream], ports[stream], &written[stream]))
				polled[stream].fd = -1;
		if (polled[CONTROL].revents && !obey(child, on_terminal ? streams[OUT] : -1))
			power_off();
		if (polled[CHILD].revents) {
			struct signalfd_siginfo information;
			if (read(signals, &information, sizeof information) > 0)
				code = reap(child);
		}
	}
	/* The pipes still hold the output that the command wrote before it ended. Later output of its orphans is not
	 * waited for. */
	for (int stream = OUT; stream <= EVENTS; stream++) {
		struct pollfd rest = {streams[stream], POLLIN, 0};
		while (poll(&rest, 1, 0) > 0 && rest.revents & POLLIN &&
		       relay(streams[stream], ports[stream], &written[stream]))
			;
	}
	return code;
}

int run_command(int on_terminal, unsigned long long written[PORTS])
{
	int streams[4];
	sigset_t child_signal;
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_signal, NULL);
	int signals = signalfd(-1, &child_signal, SFD_CLOEXEC);
	pid_t child = start(streams, on_terminal);
	write_all(ports[CONTROL], "R\n", 2);
	return attend(child, streams, signals, on_terminal, written);
}
