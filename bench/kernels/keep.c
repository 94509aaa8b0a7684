/* keep OWNER COMMAND...: the first process of a PID namespace, in which COMMAND and all its descendants run.
 *
 * When this process ends, the kernel kills every other process in the namespace (pid_namespaces(7)), in whatever
 * session and with whatever parent: a user's daemons as well. This process ends when COMMAND ends or when its owner
 * ends. The owner's death raises a signal (prctl(2), PR_SET_PDEATHSIG). The owner may die before this process asks for
 * the signal, so OWNER is a descriptor of a pipe whose other end only the owner has open; the kernel closes that end
 * before it sends the signal. (The number of the parent tells nothing here: seen from a new PID namespace it is always
 * 0.)
 *
 * A process number is valid in one PID namespace only, so /proc is mounted anew, in a new mount namespace. The
 * machine's /proc is left open for COMMAND, as BENCH_PROC, because only it shows kernel threads.
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

/* Reaps all processes that have ended. Exits when COMMAND is among them. */
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

	/* The first process of a namespace ignores signals by default, but a signal that is blocked still reaches it.
	 * So the owner blocks these signals before it starts this process. COMMAND has none of them blocked. */
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
