/* The members of the tar stream on standard input. */
#ifndef BALLONET_TAR_READER_H
#define BALLONET_TAR_READER_H

#include "tar.h"
#include "tar_sparse.h"

#include <stdbool.h>
#include <stdint.h>

struct tar_entry {
	struct tar_member member;
	uint64_t stored; /* bytes of content that follow in the stream, without padding */
	struct tar_segments segments; /* where they belong in the file */
};
/* Reads the next header, with everything that belongs to it. It is valid until the next call. False: the end of the
 * archive. A damaged archive ends the program. */
bool tar_read(struct tar_entry *entry);

#endif
