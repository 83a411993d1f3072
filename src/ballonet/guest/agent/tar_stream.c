/* The bytes of the tar stream on standard input. */
#define _GNU_SOURCE
#include "tar_stream.h"
#include "file_io.h"
#include "file_report.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void (*clean_up_first)(void);
static char *input;
static size_t input_at, input_end;
static uint64_t position;

void tar_stream_open(void (*clean_up)(void))
{
	clean_up_first = clean_up;
	input = room_for(PIECE);
}

_Noreturn void unpack_abort(const char *below, const char *what)
{
	report(below, what);
	clean_up_first();
	_exit(report_status());
}

_Noreturn void tar_stream_ended(const char *below)
{
	unpack_abort(below, "the archive ends in the middle of this member");
}

uint64_t tar_stream_position(void)
{
	return position;
}

size_t tar_stream_take(uint8_t **from, uint64_t most)
{
	size_t size;

	if (input_at == input_end) {
		ssize_t got;

		do
			got = read(STDIN_FILENO, input, PIECE);
		while (got < 0 && errno == EINTR);
		if (got < 0)
			unpack_abort("", "the archive cannot be read");
		input_at = 0;
		input_end = (size_t)got;
	}
	size = input_end - input_at;
	if (size > most)
		size = (size_t)most;
	*from = (uint8_t *)input + input_at;
	input_at += size;
	position += size;
	return size;
}

size_t tar_stream_read(void *to, size_t size)
{
	size_t done = 0, got;
	uint8_t *from;

	while (done < size && (got = tar_stream_take(&from, size - done)) > 0) {
		memcpy((char *)to + done, from, got);
		done += got;
	}
	return done;
}

void tar_stream_read_exactly(void *to, size_t size, const char *below)
{
	if (tar_stream_read(to, size) < size)
		tar_stream_ended(below);
}

void tar_stream_skip(uint64_t size, const char *below)
{
	uint8_t *from;
	size_t got;

	for (; size > 0; size -= got) {
		got = tar_stream_take(&from, size);
		if (got == 0)
			tar_stream_ended(below);
	}
}
