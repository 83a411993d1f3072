/* Extended headers of the pax format. */
#ifndef BALLONET_TAR_PAX_H
#define BALLONET_TAR_PAX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* What an extended header says about the member after it. */
struct pax_extension {
	char *path, *link, *sparse_name;
	bool has_size, has_uid, has_gid, has_time, sparse, old_sparse;
	uint64_t size, uid, gid, real_size;
	struct timespec changed;
};
/* Reads an extended header in place: texts stay in it. False: it is damaged. */
bool pax_parse(char *text, size_t size, struct pax_extension *extension);

#endif
