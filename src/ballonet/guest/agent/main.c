/* Entry and the event loop. */
#define _GNU_SOURCE
#include "exec_parts.h"
#include "base.h"
#include "boot.h"
#include "channel.h"
#include "drain.h"
#include "end.h"
#include "family.h"
#include "memory.h"
#include "process.h"
#include "protocol.h"
#include "wire.h"

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
		/* Output first, because the other handlers may close descriptors that are then reused. */
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

/* A new host cannot take over what ran for the lost one. */
static void forget_host(void)
{
	processes_kill_all();
	exec_parts_drop();
	memory_forget();
}

/* Opens missing standard descriptors, so that no pipe or channel gets the number 0, 1 or 2. */
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
	static const struct channel_events events = {.up = protocol_greet, .lost = forget_host};
	int channel, children;

	is_init = getpid() == 1;
	end_before(processes_kill_all);
	if (is_init) {
		boot();
		fill_standard_descriptors();
		boot_protect_self();
	} else if (argc == 3 && strcmp(argv[1], "--fd") == 0) {
		fill_standard_descriptors();
		/* Orphans become children of this process, as they do of PID 1. */
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
			complain("--fd %s: must be an open descriptor above 2", argv[2]);
			return END_USAGE;
		}
		channel = (int)number;
	}
	channel_open(channel, &events);
	loop(children);
}
