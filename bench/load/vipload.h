/* vipload: the server every backend runs, and the client that measures connections to them. */
#ifndef VIPLOAD_H
#define VIPLOAD_H

#include <netinet/in.h>
#include <stdint.h>

int serve(int argc, char **argv);
int load(int argc, char **argv);

/* "10.0.0.2:80" -> address; exits with a usage error if it is not one. */
struct sockaddr_in parse_address(const char *text);
/* A decimal number within bounds; exits with a usage error naming the option if it is not one. */
long parse_number(const char *option, const char *text, long least, long most);
void __attribute__((noreturn, format(printf, 1, 2))) usage_error(const char *format, ...);
void __attribute__((noreturn)) fail(const char *what);

#endif
