/* The commands of vipload, and the parsing of their options. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vipload.h"

static const char help[] =
	"usage: vipload serve --id N [--tcp PORT]... [--udp PORT]... [--udp-as-asked PORT]...\n"
	"                    [--with-parent PID]\n"
	"       vipload load --to IP:PORT[,IP:PORT...] --connections N --concurrency C\n"
	"                    [--requests N] [--rate PER-SECOND] [--warmup N] [--close fin|rst]\n"
	"                    [--sources IP[,IP...]] [--threads N] [--timeout MS] [--raw FILE]\n"
	"       vipload udp --to IP:PORT[,IP:PORT...] --exchanges N --concurrency C\n"
	"                    [--fresh 0|1] [--warmup N] [--timeout MS]\n"
	"       vipload stream --to IP:PORT --bytes N\n"
	"       vipload gap --to IP:PORT [--timeout MS]\n"
	"\n"
	"serve answers each TCP byte with its id (one byte). It answers \"w\" and \"G\" with a line of text that\n"
	"names the server and the addresses it saw. It answers each datagram likewise: from the address\n"
	"that the kernel chooses, or with --udp-as-asked from the address that the datagram was sent to.\n"
	"It prints \"ready\" when it listens.\n"
	"load connects, sends one byte, waits for one byte and closes; N times, C at a time, to the\n"
	"targets in turn. It runs a thread for each processor, or as many as --threads says. With\n"
	"--requests a connection has several requests. With --rate connections begin when they are due, and\n"
	"latencies count from then. With --sources connections come from these addresses in turn.\n"
	"udp exchanges datagrams in C flows; with --fresh each exchange has a new flow of two datagrams.\n"
	"stream sends bytes that the server counts.\n"
	"gap exchanges datagrams one at a time from \"ready\" to the end of stdin, and tells the longest time\n"
	"between two answers. After --timeout without one it sends again.\n"
	"Each prints one JSON object, whose figures have the names and units of `bench list metrics`.\n"
	"--timeout is in milliseconds. --raw writes the latencies of every request in nanoseconds, thread\n"
	"by thread, in order of completion: pairs of little-endian 32-bit numbers, connect and request.\n"
	"connect is 0 except for a connection's first request.\n";

struct sockaddr_in targets[TARGETS];
long target_count;

void usage_error(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fputs("vipload: ", stderr);
	vfprintf(stderr, format, arguments);
	fputs(" (vipload --help)\n", stderr);
	va_end(arguments);
	exit(2);
}

void fail(const char *what)
{
	fprintf(stderr, "vipload: %s: %s\n", what, strerror(errno));
	exit(1);
}

long parse_number(const char *option, const char *text, long least, long most)
{
	char *end;
	errno = 0;
	long number = strtol(text, &end, 10);
	if (errno || !*text || *end || number < least || number > most)
		usage_error("%s %s: not a number from %ld to %ld", option, text, least, most);
	return number;
}

struct sockaddr_in parse_address(const char *text)
{
	char address[64];
	struct sockaddr_in parsed = {.sin_family = AF_INET};
	const char *colon = strrchr(text, ':');
	if (!colon || (size_t)(colon - text) >= sizeof address)
		usage_error("%s: not IP:PORT", text);
	memcpy(address, text, colon - text);
	address[colon - text] = 0;
	if (inet_pton(AF_INET, address, &parsed.sin_addr) != 1)
		usage_error("%s: not IP:PORT", text);
	parsed.sin_port = htons(parse_number("port", colon + 1, 1, 65535));
	return parsed;
}

void parse_targets(char *text)
{
	char *rest;
	for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		if (target_count == TARGETS)
			usage_error("more than %d targets", TARGETS);
		targets[target_count++] = parse_address(one);
	}
}

void parse_options(int argc, char **argv, int (*take)(const char *option, char *value))
{
	for (int i = 0; i < argc; i += 2) {
		if (i + 1 == argc)
			usage_error("%s: no value, or no such option", argv[i]);
		if (!take(argv[i], argv[i + 1]))
			usage_error("%s %s: no such option or value", argv[i], argv[i + 1]);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {{"serve", serve}, {"load", load}, {"udp", datagrams}, {"stream", stream}, {"gap", gap}};
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		fputs(help, stdout);
		return 0;
	}
	for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 2, argv + 2);
	usage_error("serve, load, udp, stream or gap");
}
