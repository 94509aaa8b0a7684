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
 * "W<rows> <cols>"; the guest sends "R" when the command runs and "X<exit code> <out> <err> <events>" when it has ended,
 * with the bytes that it has written to each of these ports. When control is closed, the program's own process has all
 * of them or has ended, and the guest powers off. (A port takes 128 buffers that QEMU has not passed on yet, and QEMU
 * drops them when the machine is off: drivers/char/virtio_console.c, port_fops_write.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <linux/random.h>
#include <net/if.h>

#include "awake.h"
#include "init.h"

static int tty_mode;

void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

void die(const char *format, ...)
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

char *slurp(const char *path, size_t *length)
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

char *split(char *line)
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
	unsigned long long written[PORTS] = {0};
	int code = run_command(tty_mode, written);
	char line[80];
	write_all(
		ports[CONTROL], line,
		snprintf(line, sizeof line, "X%d %llu %llu %llu\n", code, written[OUT], written[ERR], written[EVENTS]));
	await_closing();
	power_off();
}
