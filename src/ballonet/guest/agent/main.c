/* Entry and the event loop. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

bool is_init;

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* One line on the console (PID 1) or on standard error. */
void complain(const char *format, ...)
{
	va_list arguments;

	dprintf(STDERR_FILENO, "ballonet-agent: ");
	va_start(arguments, format);
	vdprintf(STDERR_FILENO, format, arguments);
	va_end(arguments);
	dprintf(STDERR_FILENO, "\n");
}

/* Ends everything that the agent started, and itself: a machine whose agent is gone is of no use. */
_Noreturn void agent_end(int status)
{
	processes_kill_all();
	if (is_init)
		power_off();
	exit(status);
}

_Noreturn void violation(const char *why, uint16_t type, uint32_t stream)
{
	complain("the host broke the protocol: %s (frame type 0x%02x, stream %u)", why, (unsigned)type,
		 (unsigned)stream);
	agent_end(END_VIOLATION);
}

static int watch_children(void)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0) {
		complain("signalfd: %s", strerror(errno));
		agent_end(END_FAILED);
	}
	return fd;
}

static _Noreturn void loop(int children)
{
	enum { CHANNEL, CHILDREN, MEMORY, DRAINS, FIRST_PROCESS };
	static struct pollfd fds[FIRST_PROCESS + MAX_PROCESSES * FDS_PER_PROCESS];

	for (;;) {
		struct signalfd_siginfo ignored[8];
		int count;

		protocol_dispatch();
		channel_settle();
		processes_settle();
		memory_settle();
		channel_flush();

		fds[CHILDREN] = (struct pollfd){.fd = children, .events = POLLIN};
		channel_want(&fds[CHANNEL]);
		memory_want(&fds[MEMORY]);
		drain_want(&fds[DRAINS]);
		count = FIRST_PROCESS + processes_want(&fds[FIRST_PROCESS]);
		if (poll(fds, (nfds_t)count, drain_timeout_ms(channel_timeout_ms())) < 0) {
			if (errno == EINTR || errno == ENOMEM || errno == EAGAIN)
				continue;
			complain("poll: %s", strerror(errno));
			agent_end(END_FAILED);
		}
		/* Output first: descriptors may be closed and reused by what follows. */
		processes_ready(&fds[FIRST_PROCESS]);
		memory_ready(fds[MEMORY].revents);
		drain_ready(fds[DRAINS].revents);
		if (fds[CHILDREN].revents) {
			while (read(children, ignored, sizeof ignored) > 0)
				;
			processes_reap();
		}
		channel_ready(fds[CHANNEL].revents);
	}
}

/* Standard descriptors are always open, so that no pipe or channel ever gets the number 0, 1 or 2. */
static void fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

int main(int argc, char **argv)
{
	int channel, children;

	is_init = getpid() == 1;
	if (is_init) {
		boot();
		fill_standard_descriptors();
		boot_protect_self();
	} else if (argc == 3 && strcmp(argv[1], "--fd") == 0) {
		fill_standard_descriptors();
		/* So that orphans come to this process, as they do to PID 1. */
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	} else {
		dprintf(STDERR_FILENO, "usage: agent --fd NUMBER (a connected stream socket), or run as PID 1\n");
		return END_USAGE;
	}
	children = watch_children();
	processes_init();
	drain_init();
	family_init();
	memory_init();
	if (is_init) {
		channel = boot_open_port();
	} else {
		char *end;
		long number = strtol(argv[2], &end, 10);

		if (*end != '\0' || number <= STDERR_FILENO || number > 1 << 20 ||
		    fcntl((int)number, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ||
		    fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0) {
			complain("--fd %s: not an open descriptor above 2", argv[2]);
			return END_USAGE;
		}
		channel = (int)number;
	}
	channel_open(channel);
	loop(children);
}
