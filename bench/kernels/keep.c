/* keep OWNER COMMAND...: the first process of a PID namespace in which COMMAND runs, with all that it starts.
 *
 * When this process ends, the kernel kills every other in the namespace (pid_namespaces(7)), whatever session they are
 * of and whoever their parents were: a user's daemons as well. And it ends when COMMAND does, or when its owner does:
 * the owner's death is its signal (prctl(2), PR_SET_PDEATHSIG); and lest the owner died before we asked for that, OWNER
 * is a descriptor of a pipe whose other end the owner alone has open, and which the kernel closes ahead of the signal.
 * (The number of our parent tells nothing here: seen from a new PID namespace it is always 0.)
 *
 * Process numbers mean something in one PID namespace only, so /proc is mounted anew, in a mount namespace of our own.
 * The machine's /proc is left open for COMMAND, as BENCH_PROC: kernel threads are in no other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "bench: cannot keep a command: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static void mount_proc(void)
{
	char name[32];
	int found = open("/proc", O_RDONLY | O_DIRECTORY), machine = fcntl(found, F_DUPFD, 10);
	close(found);
	if (machine < 0 || unshare(CLONE_NEWNS))
		die("mount namespace");
	if (mount(NULL, "/proc", NULL, MS_PRIVATE | MS_REC, NULL) || mount("proc", "/proc", "proc", 0, NULL))
		die("mount /proc");
	snprintf(name, sizeof name, "/proc/self/fd/%d", machine);
	setenv("BENCH_PROC", name, 1);
}

static int as_a_shell_tells(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Reaps whoever ended; returns when the command is among them. */
static void reap(pid_t command)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		if (pid == command)
			_exit(as_a_shell_tells(status));
}

int main(int argc, char **argv)
{
	int owner = argc > 2 ? atoi(argv[1]) : -1;
	struct pollfd gone = {.fd = owner, .events = POLLIN};
	if (owner < 3 || getpid() != 1)
		return 125;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || poll(&gone, 1, 0))
		return 125;
	mount_proc();

	/* A signal that is blocked reaches us although we are the first process, whose default it is to ignore it: so our
	 * owner has them blocked since before we were. COMMAND has none blocked. */
	sigset_t ours, none;
	sigemptyset(&none);
	sigemptyset(&ours);
	sigaddset(&ours, SIGCHLD);
	sigaddset(&ours, SIGINT);
	sigaddset(&ours, SIGTERM);
	sigaddset(&ours, SIGHUP);
	sigprocmask(SIG_BLOCK, &ours, NULL);
	int signals = signalfd(-1, &ours, SFD_CLOEXEC);
	pid_t command = fork();
	if (signals < 0 || command < 0)
		die("fork");
	if (!command) {
		close(owner);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execvp(argv[2], argv + 2);
		fprintf(stderr, "bench: %s: %s\n", argv[2], strerror(errno));
		_exit(errno == ENOENT ? 127 : 126);
	}
	for (;;) {
		struct pollfd polled[] = {{.fd = owner, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
		struct signalfd_siginfo caught;
		if (poll(polled, 2, -1) < 0)
			continue;
		if (polled[0].revents)
			_exit(125);
		if (read(signals, &caught, sizeof caught) != sizeof caught)
			continue;
		if (caught.ssi_signo == SIGCHLD)
			reap(command);
		else
			kill(command, caught.ssi_signo);
	}
}
