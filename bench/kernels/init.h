/* What the parts of the guest's first process share: init.c makes the machine, ports.c has the channel to the program's own
 * process, and command.c runs the job's command. */
#include <stddef.h>

enum { IN, OUT, ERR, EVENTS, CONTROL, PORTS };
extern int ports[PORTS];

void power_off(void) __attribute__((noreturn));
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Returns a file's content with its length, and two zero bytes behind it; nothing if it cannot be read. */
char *slurp(const char *path, size_t *length);

/* Ends a line at its first space, and returns what follows that. */
char *split(char *line);

void open_ports(void);
void write_all(int file, const char *data, size_t length);

/* Writes the job's files to /job. */
void receive_job(void);

/* Returns when the control port is closed. */
void await_closing(void);

/* Runs the job's command, with its streams on the ports or on a terminal of its own, and carries out what comes on the
 * control port meanwhile. Returns its exit code as a shell does, and the bytes that were written to each port. */
int run_command(int on_terminal, unsigned long long written[PORTS]);
