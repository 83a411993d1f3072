/* Sparse files in a tar stream: which parts of a file are stored. */
#ifndef BALLONET_TAR_SPARSE_H
#define BALLONET_TAR_SPARSE_H

#include "tar.h"

#include <stddef.h>
#include <stdint.h>

struct tar_segment {
	uint64_t offset, size;
};
struct tar_segments {
	const struct tar_segment *all;
	size_t count;
};

/* A file that is not sparse. */
void sparse_set_plain(uint64_t size, const char *below);
/* Reads the map of the GNU format, in the header and in blocks after it, and sets the member's size. */
void sparse_read_old_map(const uint8_t *header, struct tar_member *member);
/* Reads the map of pax format 1.0, which precedes the content and is counted in `stored`. */
void sparse_read_new_map(const struct tar_member *member, uint64_t *stored);
/* The segments. A damaged map ends the program: they must fit into `stored` and into the size of the file. */
struct tar_segments sparse_segments(const struct tar_member *member, uint64_t stored);

#endif
