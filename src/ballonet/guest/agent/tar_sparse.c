/* Sparse files in a tar stream (GNU tar's manual, "Storing Sparse Files"). */
#define _GNU_SOURCE
#include "tar_sparse.h"
#include "file_io.h"
#include "tar_stream.h"

#include <stdbool.h>

enum {
	MAX_SEGMENTS = 1 << 16,
	SEGMENTS_IN_HEADER = 4,
	SEGMENTS_IN_BLOCK = 21,
};

static struct tar_segment *segments;
static size_t count;

static _Noreturn void damaged(const char *below)
{
	unpack_abort(below, "the archive is damaged: the map of this sparse file is invalid");
}

static void begin(void)
{
	if (!segments)
		segments = room_for(MAX_SEGMENTS * sizeof *segments);
	count = 0;
}

static void add(uint64_t offset, uint64_t size, const char *below)
{
	if (count == MAX_SEGMENTS)
		unpack_abort(below, "this sparse file has too many segments");
	if (offset > INT64_MAX || size > INT64_MAX || offset + size > INT64_MAX)
		damaged(below);
	segments[count++] = (struct tar_segment){offset, size};
}

void sparse_set_plain(uint64_t size, const char *below)
{
	begin();
	add(0, size, below);
}

static void add_from_block(const uint8_t *from, int most, const char *below)
{
	for (int i = 0; i < most && from[24 * i]; i++) {
		int64_t offset, size;

		if (!tar_number(from + 24 * i, 12, &offset) || !tar_number(from + 24 * i + 12, 12, &size))
			damaged(below);
		add((uint64_t)offset, (uint64_t)size, below);
	}
}

void sparse_read_old_map(const uint8_t *header, struct tar_member *member)
{
	uint8_t block[TAR_BLOCK];
	int64_t real_size;
	bool more = header[482];

	begin();
	add_from_block(header + 386, SEGMENTS_IN_HEADER, member->name);
	while (more) {
		tar_stream_read_exactly(block, sizeof block, member->name);
		add_from_block(block, SEGMENTS_IN_BLOCK, member->name);
		more = block[504];
	}
	if (!tar_number(header + 483, 12, &real_size) || real_size < 0)
		damaged(member->name);
	member->size = (uint64_t)real_size;
}

/* A decimal number and a newline. */
static uint64_t read_number(uint64_t *stored, const char *below)
{
	char digits[24];
	size_t size = 0;
	uint64_t number;
	uint8_t *byte;

	while (*stored > 0 && tar_stream_take(&byte, 1) == 1) {
		--*stored;
		if (*byte == '\n')
			break;
		if (size < sizeof digits)
			digits[size++] = (char)*byte;
	}
	if (size == sizeof digits || !tar_decimal(digits, digits + size, &number))
		damaged(below);
	return number;
}

void sparse_read_new_map(const struct tar_member *member, uint64_t *stored)
{
	uint64_t before = *stored, rest, pairs;

	begin();
	pairs = read_number(stored, member->name);
	for (uint64_t i = 0; i < pairs; i++) {
		uint64_t offset = read_number(stored, member->name);

		add(offset, read_number(stored, member->name), member->name);
	}
	/* The map takes whole blocks. */
	rest = tar_padding(before - *stored);
	if (rest > *stored)
		rest = *stored;
	tar_stream_skip(rest, member->name);
	*stored -= rest;
}

struct tar_segments sparse_segments(const struct tar_member *member, uint64_t stored)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++) {
		sum += segments[i].size;
		if (sum > stored || segments[i].offset + segments[i].size > member->size)
			damaged(member->name);
	}
	return (struct tar_segments){segments, count};
}
