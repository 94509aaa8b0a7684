/* The guest's first process. It loads the modules of the initramfs and asks for a job. Then it mounts the machine's own
 * file system (read-only, under a tmpfs overlay), starts the job's one command, with its streams on virtio-serial ports,
 * and powers off when the command ends. Until it has the job, every guest of a kernel is the same, so it is booted once
 * and saved (snapshot.py).
 *
 * The files of /job have one item a line, unless said otherwise. In the initramfs are:
 *   files    9p | virtiofs: how the machine's files are shared
 *   boot     modules to load from the initramfs, in order
 * With the job come:
 *   modules  modules to load from the root, in order             shares   TAG PATH: directories that are writable
 *   bind     SOURCE TARGET: bind mounts                          options  tty | awake | cwd PATH | time SECONDS
 *   argv, env  NUL-separated                                     random   bytes for the kernel's generator
 * The ports are in, out, err, events (the command's fd 3) and control. On control the guest sends "B" when it has booted.
 * The program's own process sends the job, "NAME SIZE" and the content of each file and "end 0", and then "S<signal>" and
 * "W<rows> <cols>"; the guest sends "R" when the command runs and "X<exit code>" when it has ended. When control is
 * closed, the program's own process has ended, and the guest powers off.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/random.h>
#include <net/if.h>

#include "awake.h"

enum { IN, OUT, ERR, EVENTS, CONTROL, PORTS };
static const char *const port_names[PORTS] = {"in", "out", "err", "events", "control"};
static int ports[PORTS];
static int tty_mode;

static void __attribute__((noreturn)) power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("guest init: ", stderr);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, ": %s\n", strerror(errno));
	va_end(arguments);
	power_off();
}

static void make_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	char path[512];
	snprintf(path, sizeof path, "%s", target);
	for (char *slash = path + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
		*slash = 0;
		mkdir(path, 0755);
	}
	mkdir(path, 0755);
	if (mount(source, target, type, flags, data))
		die("mount %s on %s", source, target);
}

static char *slurp(const char *path, size_t *length)
{
	static char nothing[1];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	*length = 0;
	if (file < 0 || fstat(file, &status))
		return nothing;
	char *text = calloc(1, status.st_size + 2);
	for (ssize_t got; text && (got = read(file, text + *length, status.st_size - *length)) > 0;)
		*length += got;
	close(file);
	return text ? text : nothing;
}

static void each_line(const char *path, void (*act)(char *line))
{
	size_t length;
	char *save, *text = slurp(path, &length);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		act(line);
}

static void load_module(char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST))
		fprintf(stderr, "guest init: module %s: %s\n", path, strerror(errno));
	close(file);
}

static char *split(char *line)
{
	char *space = strchr(line, ' ');
	if (!space)
		die("malformed job line %s", line);
	*space = 0;
	return space + 1;
}

/* Mounts a directory of the machine. `cached`: its files do not change while the guest runs. */
static void mount_files(const char *tag, const char *target, unsigned long flags, int cached)
{
	size_t length;
	if (!strcmp(slurp("/job/files", &length), "virtiofs")) {
		make_mount(tag, target, "virtiofs", flags, NULL);
		return;
	}
	char options[128];
	snprintf(options, sizeof options, "trans=virtio,version=9p2000.L,msize=512000%s", cached ? ",cache=loose" : "");
	make_mount(tag, target, "9p", flags, options);
}

static void share(char *line)
{
	char *path = split(line), target[512];
	snprintf(target, sizeof target, "/new%s", path);
	mount_files(line, target, 0, 0);
}

static void bind_mount(char *line)
{
	char *target = split(line), from[512], to[512];
	snprintf(from, sizeof from, "/new%s", line);
	snprintf(to, sizeof to, "/new%s", target);
	make_mount(from, to, NULL, MS_BIND, NULL);
}

static void option(char *line)
{
	if (!strcmp(line, "tty")) {
		tty_mode = 1;
	} else if (!strcmp(line, "awake")) {
		stay_awake("/sys/kernel/tracing", "/run/bench-job/waited");
	} else if (!strncmp(line, "cwd ", 4)) {
		if (chdir(line + 4))
			die("chdir %s", line + 4);
	} else if (!strncmp(line, "time ", 5)) {
		struct timespec now = {.tv_sec = atoll(line + 5)};
		clock_settime(CLOCK_REALTIME, &now);
	}
}

static void build_root(void)
{
	mount_files("root", "/ro", MS_RDONLY, 1);
	make_mount("rw", "/rw", "tmpfs", 0, NULL);
	mkdir("/rw/upper", 0755);
	mkdir("/rw/work", 0755);
	make_mount("root", "/new", "overlay", 0, "lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work");
	make_mount("proc", "/new/proc", "proc", 0, NULL);
	make_mount("sys", "/new/sys", "sysfs", 0, NULL);
	make_mount("dev", "/new/dev", "devtmpfs", 0, NULL);
	make_mount("pts", "/new/dev/pts", "devpts", 0, "ptmxmode=666");
	make_mount("shm", "/new/dev/shm", "tmpfs", 0, NULL);
	make_mount("run", "/new/run", "tmpfs", 0, "mode=755");
	/* The machine's own labs come and go in its /etc/netns, and would be seen through the overlay. */
	make_mount("netns", "/new/etc/netns", "tmpfs", 0, "mode=755");
	make_mount("cgroup2", "/new/sys/fs/cgroup", "cgroup2", 0, NULL);
	mount("bpf", "/new/sys/fs/bpf", "bpf", 0, NULL);
	mount("tracefs", "/new/sys/kernel/tracing", "tracefs", 0, NULL);
	each_line("/job/shares", share);
	each_line("/job/bind", bind_mount);
	if (symlink("/proc/self/fd", "/new/dev/fd") && errno != EEXIST)
		die("/dev/fd");
	/* The job's remaining files are needed under the new root. */
	make_mount("/job", "/new/run/bench-job", NULL, MS_BIND, NULL);
	if (chdir("/new") || mount("/new", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		die("switch root");
}

static void raise_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ioctl(any, SIOCSIFFLAGS, &request);
	close(any);
}

static void open_ports(void)
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

static char **vector(const char *path)
{
	size_t length, count = 0;
	char *text = slurp(path, &length);
	char **list = calloc(length + 2, sizeof *list);
	for (char *item = text; item < text + length; item += strlen(item) + 1)
		list[count++] = item;
	return list;
}

static void write_all(int file, const char *data, size_t length)
{
	while (length) {
		ssize_t done = write(file, data, length);
		if (done > 0) {
			data += done;
			length -= done;
		} else if (errno == EAGAIN) {
			struct pollfd ready = {.fd = file, .events = POLLOUT};
			poll(&ready, 1, -1);
		} else {
			return; /* the other end is closed */
		}
	}
}

/* Copies the bytes that can be read now. Returns 0 at the end of the input. */
static int relay(int from, int to)
{
	static char buffer[65536];
	ssize_t got = read(from, buffer, sizeof buffer);
	if (got > 0)
		write_all(to, buffer, got);
	return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
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

/* Writes the job's files to /job. */
static void receive_job(void)
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

/* A guest that was saved would otherwise have the random numbers of every other one. */
static void reseed(void)
{
	size_t length;
	char *bytes = slurp("/job/random", &length);
	int file = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	write_all(file, bytes, length);
	if (file < 0 || ioctl(file, RNDRESEEDCRNG))
		die("/dev/urandom");
	close(file);
}

static pid_t start(int streams[4])
{
	int master = -1, slave = -1, pipes[4][2];
	if (tty_mode && openpty(&master, &slave, NULL, NULL, NULL))
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
		if (tty_mode)
			ioctl(slave, TIOCSCTTY, 0);
		dup2(tty_mode ? slave : pipes[IN][0], 0);
		dup2(tty_mode ? slave : pipes[OUT][1], 1);
		dup2(tty_mode ? slave : pipes[ERR][1], 2);
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
	streams[IN] = tty_mode ? master : pipes[IN][1];
	streams[OUT] = tty_mode ? master : pipes[OUT][0];
	streams[ERR] = pipes[ERR][0];
	streams[EVENTS] = pipes[EVENTS][0];
	if (tty_mode)
		fcntl(slave, F_SETFD, FD_CLOEXEC);
	return child;
}

/* Carries out the commands on the control port. Returns 0 when the port is closed. */
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
		if (sscanf(text, "W%hu %hu", &size.ws_row, &size.ws_col) == 2 && tty_mode)
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

/* Relays streams and signals until the command ends. Returns its exit code as a shell does. */
static int attend(pid_t child, int streams[4], int signals)
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
			if (!relay(ports[IN], streams[IN])) {
				if (tty_mode)
					write_all(streams[IN], "\4", 1);
				else
					close(streams[IN]);
				polled[IN].fd = -1;
			}
		}
		for (int stream = OUT; stream <= EVENTS; stream++)
			if (polled[stream].revents && !relay(streams[stream], ports[stream]))
				polled[stream].fd = -1;
		if (polled[CONTROL].revents && !obey(child, streams[OUT]))
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
		while (poll(&rest, 1, 0) > 0 && rest.revents & POLLIN && relay(streams[stream], ports[stream]))
			;
	}
	return code;
}

int main(void)
{
	make_mount("proc", "/proc", "proc", 0, NULL);
	make_mount("sys", "/sys", "sysfs", 0, NULL);
	make_mount("dev", "/dev", "devtmpfs", 0, NULL);
	int console = open("/dev/console", O_RDWR);
	for (int file = 0; console >= 0 && file < 3; file++)
		dup2(console, file);
	signal(SIGPIPE, SIG_IGN);
	each_line("/job/boot", load_module);
	open_ports();
	write_all(ports[CONTROL], "B\n", 2);
	receive_job();
	reseed();
	build_root();
	each_line("/run/bench-job/options", option);
	raise_loopback();
	sethostname("guest", 5);
	each_line("/run/bench-job/modules", load_module);
	sigset_t child_signal;
	sigemptyset(&child_signal);
	sigaddset(&child_signal, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_signal, NULL);
	int signals = signalfd(-1, &child_signal, SFD_CLOEXEC), streams[4];
	pid_t child = start(streams);
	write_all(ports[CONTROL], "R\n", 2);
	int code = attend(child, streams, signals);
	char line[16];
	write_all(ports[CONTROL], line, snprintf(line, sizeof line, "X%d\n", code));
	power_off();
}
