#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vipload.h"

static const char help[] =
	"usage: vipload serve --id N [--tcp PORT]... [--udp PORT]... [--with-parent]\n"
	"       vipload load --to IP:PORT[,IP:PORT...] --connections N --concurrency C\n"
	"                    [--warmup N] [--close fin|rst] [--timeout MS] [--raw FILE]\n"
	"\n"
	"serve answers each TCP byte with its id (a byte), \"w\" and \"G\" with a line of text that says\n"
	"who answered and whom it saw, and each datagram likewise. It prints \"ready\" when it listens.\n"
	"load connects, sends one byte, waits for one byte, closes; N times, C at a time, to the\n"
	"targets in turn. It prints one JSON object; latencies are in nanoseconds. --raw writes every\n"
	"connection's latencies in order of completion: pairs of little-endian 32-bit numbers, connect\n"
	"and request; 0 0 for one that failed.\n";

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

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		fputs(help, stdout);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "serve"))
		return serve(argc - 2, argv + 2);
	if (argc > 1 && !strcmp(argv[1], "load"))
		return load(argc - 2, argv + 2);
	usage_error("serve or load");
}
