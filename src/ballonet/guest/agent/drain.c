/* Outputs of processes that have ended, to which their background children still write. This output is read and
 * discarded, so that the children neither get SIGPIPE nor block.
 *
 * The cost is bounded. The kernel keeps the list (epoll), so that the loop does not grow with it. After each round
 * there is a pause, in which writers fill their pipes: however much they write, the agent wakes up at most some hundred
 * times a second, for a bounded amount of work. */
#define _GNU_SOURCE
#include "drain.h"
#include "base.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	MAX_DRAINS = 32 * 1024,
	DRAINS_PER_ROUND = 512,
	PIECE = 16 * 1024,
	PIECES_PER_ROUND = 8, /* a pipe holds 64 KiB, and is filled again while it is read */
	MUCH = PIECE,	      /* a child that writes this much between two rounds waits for the end of the pause */
	SHORT_PAUSE_MS = 5,
	LONG_PAUSE_MS = 100,
};

static int drains = -1;
static int count;
static int64_t pause_until;

void drain_init(void)
{
	drains = epoll_create1(EPOLL_CLOEXEC);
	if (drains < 0)
		complain("epoll: %s", strerror(errno));
}

/* Reads and discards. Returns the number of bytes, or -1 when there are no writers any more. */
static ssize_t discard(int fd)
{
	static char nowhere[PIECE];
	ssize_t total = 0;

	for (int piece = 0; piece < PIECES_PER_ROUND; piece++) {
		ssize_t got = read(fd, nowhere, sizeof nowhere);

		if (got > 0)
			total += got;
		else if (got < 0 && errno == EINTR)
			continue;
		else if (got < 0 && errno == EAGAIN)
			break;
		else
			return -1; /* for a terminal, EIO */
	}
	return total;
}

void drain_take(int fd)
{
	struct epoll_event readable = {.events = EPOLLIN, .data.fd = fd};

	/* In most cases there is no writer. */
	if (discard(fd) < 0 || count == MAX_DRAINS || epoll_ctl(drains, EPOLL_CTL_ADD, fd, &readable) < 0) {
		close(fd);
		return;
	}
	count++;
}

void drain_want(struct pollfd *want)
{
	bool wanted = count > 0 && now_ms() >= pause_until;

	*want = (struct pollfd){.fd = wanted ? drains : -1, .events = POLLIN};
}

int drain_timeout_ms(int other_ms)
{
	int64_t left = pause_until - now_ms();

	if (count == 0 || left <= 0)
		return other_ms;
	return other_ms < 0 || left < other_ms ? (int)left : other_ms;
}

void drain_ready(short revents)
{
	static struct epoll_event ready[DRAINS_PER_ROUND];
	ssize_t most = 0;
	int found;

	if (!revents)
		return;
	/* Descriptors that are not returned now come first the next time. */
	found = epoll_wait(drains, ready, DRAINS_PER_ROUND, 0);
	for (int i = 0; i < found; i++) {
		int fd = ready[i].data.fd;
		ssize_t got = discard(fd);

		if (got > most)
			most = got;
		if (got < 0) {
			/* Explicitly, because a child between fork and exec may have it open, too. */
			epoll_ctl(drains, EPOLL_CTL_DEL, fd, NULL);
			close(fd);
			count--;
		}
	}
	if (most > 0 || found == DRAINS_PER_ROUND)
		pause_until = now_ms() + (most >= MUCH || found == DRAINS_PER_ROUND ? SHORT_PAUSE_MS : LONG_PAUSE_MS);
}
