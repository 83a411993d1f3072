/* Outputs of processes that have ended, while children that they left in the background still write to them: what
 * these write is taken and dropped, so that they neither die of SIGPIPE nor wait for ever.
 *
 * It costs no more than it must. The kernel keeps the list (epoll), so that the loop does not grow with it; and after
 * each look there is a pause, during which writers fill their pipes: many of them, or one that floods, wake the agent
 * at most some hundred times a second, for a bounded piece of work each time. */
#define _GNU_SOURCE
#include "drain.h"
#include "base.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	MAX_DRAINS = 32 * 1024,
	DRAINS_PER_LOOK = 512,
	PIECE = 16 * 1024,
	PIECES_PER_LOOK = 8, /* a pipe holds 64 KiB, and is filled again while it is read */
	MUCH = PIECE,	     /* who writes so much between two looks is kept waiting by the pause */
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

/* Reads and forgets. Returns the bytes, or -1 once nobody can write any more. */
static ssize_t discard(int fd)
{
	static char nowhere[PIECE];
	ssize_t total = 0;

	for (int piece = 0; piece < PIECES_PER_LOOK; piece++) {
		ssize_t got = read(fd, nowhere, sizeof nowhere);

		if (got > 0)
			total += got;
		else if (got < 0 && errno == EINTR)
			continue;
		else if (got < 0 && errno == EAGAIN)
			break;
		else
			return -1; /* a terminal says EIO */
	}
	return total;
}

void drain_take(int fd)
{
	struct epoll_event readable = {.events = EPOLLIN, .data.fd = fd};

	/* Mostly there is nobody left. */
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

/* How long the loop may sleep, where it may sleep for `other_ms` (-1: for ever) otherwise. */
int drain_timeout_ms(int other_ms)
{
	int64_t left = pause_until - now_ms();

	if (count == 0 || left <= 0)
		return other_ms;
	return other_ms < 0 || left < other_ms ? (int)left : other_ms;
}

void drain_ready(short revents)
{
	static struct epoll_event ready[DRAINS_PER_LOOK];
	ssize_t most = 0;
	int found;

	if (!revents)
		return;
	/* Those that are not served now are first the next time. */
	found = epoll_wait(drains, ready, DRAINS_PER_LOOK, 0);
	for (int i = 0; i < found; i++) {
		int fd = ready[i].data.fd;
		ssize_t got = discard(fd);

		if (got > most)
			most = got;
		if (got < 0) {
			/* Said, because a child that has not come to exec yet may hold it open, too. */
			epoll_ctl(drains, EPOLL_CTL_DEL, fd, NULL);
			close(fd);
			count--;
		}
	}
	if (most > 0 || found == DRAINS_PER_LOOK)
		pause_until = now_ms() + (most >= MUCH || found == DRAINS_PER_LOOK ? SHORT_PAUSE_MS : LONG_PAUSE_MS);
}
