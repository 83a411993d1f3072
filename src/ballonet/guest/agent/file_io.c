/* Reading and writing in a file program. */
#define _GNU_SOURCE
#include "file_io.h"
#include "file_report.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char *buffered;
static size_t buffered_size;

void *room_for(size_t bytes)
{
	void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		fail_about("memory", errno);
	return room;
}

bool write_full(int fd, const void *bytes, size_t size)
{
	const char *at = bytes;

	while (size > 0) {
		ssize_t put = write(fd, at, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		at += put;
		size -= (size_t)put;
	}
	return true;
}

ssize_t read_full(int fd, void *to, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t got = read(fd, (char *)to + done, size - done);

		if (got < 0 && errno == EINTR)
			continue;
		/* EAGAIN: a file of /proc that was opened with O_NONBLOCK and has nothing more now. */
		if (got == 0 || (got < 0 && errno == EAGAIN))
			break;
		if (got < 0)
			return done > 0 ? (ssize_t)done : -1;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

int copy_all(int from, int to)
{
	char *buffer = room_for(PIECE);

	for (;;) {
		/* Full pieces into a file: one of /proc or /sys takes a value in a single write. */
		ssize_t got = to == STDOUT_FILENO ? read(from, buffer, PIECE) : read_full(from, buffer, PIECE);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			return 0;
		if (!write_full(to, buffer, (size_t)got))
			return errno;
	}
}

static void put_out(const void *bytes, size_t size)
{
	if (!write_full(STDOUT_FILENO, bytes, size))
		fail_about("standard output", errno);
}

void out_flush(void)
{
	put_out(buffered, buffered_size);
	buffered_size = 0;
}

void out_bytes(const void *bytes, size_t size)
{
	if (!buffered)
		buffered = room_for(PIECE);
	if (size > PIECE - buffered_size)
		out_flush();
	if (size >= PIECE) {
		put_out(bytes, size);
		return;
	}
	memcpy(buffered + buffered_size, bytes, size);
	buffered_size += size;
}

void out_zeros(uint64_t size)
{
	static const char zeros[512];

	for (; size > 0; size -= size < sizeof zeros ? size : sizeof zeros)
		out_bytes(zeros, size < sizeof zeros ? (size_t)size : sizeof zeros);
}
