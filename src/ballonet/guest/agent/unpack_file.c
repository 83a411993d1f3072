/* Regular files of a tar stream: each replaces another when it is complete, or not at all. */
#define _GNU_SOURCE
#include "unpack_file.h"
#include "file_io.h"
#include "file_report.h"
#include "new_file.h"
#include "tar_stream.h"
#include "unpack_attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLE = 4096 }; /* this many zeros are not written */

static struct new_file file;
static bool writing, ends_in_hole;

void unpack_file_abandon(void)
{
	if (writing)
		new_file_discard(&file);
	writing = false;
}

void skip_content(const struct tar_entry *entry)
{
	tar_stream_skip(entry->stored + tar_padding(entry->stored), entry->member.name);
}

/* Writes one piece at the file's position; zeros become a hole. Returns errno. */
static int put_piece(const uint8_t *from, size_t size)
{
	static const uint8_t zeros[HOLE];

	while (size > 0) {
		size_t part = size < HOLE ? size : HOLE;
		size_t run = 0;

		if (part == HOLE && memcmp(from, zeros, HOLE) == 0) {
			if (lseek(file.fd, HOLE, SEEK_CUR) < 0)
				return errno;
			ends_in_hole = true;
		} else {
			/* Up to the next hole in one write. */
			do {
				run += part;
				part = size - run < HOLE ? size - run : HOLE;
			} while (run < size && !(part == HOLE && memcmp(from + run, zeros, HOLE) == 0));
			if (!write_full(file.fd, from, run))
				return errno;
			ends_in_hole = false;
			part = run;
		}
		from += part;
		size -= part;
	}
	return 0;
}

/* Returns errno, with all of the content taken from the stream. */
static int put_content(const struct tar_entry *entry)
{
	const struct tar_member *member = &entry->member;
	uint64_t left = entry->stored;
	int error = 0;

	ends_in_hole = false;
	for (size_t i = 0; i < entry->segments.count; i++) {
		const struct tar_segment *segment = &entry->segments.all[i];
		uint64_t size = segment->size;
		uint8_t *from;
		size_t got;

		if (!error && lseek(file.fd, (off_t)segment->offset, SEEK_SET) < 0)
			error = errno;
		for (; size > 0; size -= got, left -= got) {
			got = tar_stream_take(&from, size);
			if (got == 0)
				tar_stream_ended(member->name);
			if (!error)
				error = put_piece(from, got);
			if (error == ENOSPC || error == EDQUOT || error == EIO || error == EROFS)
				unpack_abort(member->name, strerror(error));
		}
	}
	if (!error && (ends_in_hole || member->size != entry->stored) && ftruncate(file.fd, (off_t)member->size) < 0)
		error = errno;
	tar_stream_skip(left + tar_padding(entry->stored), member->name);
	return error;
}

void unpack_file(const struct tar_entry *entry, int above, const char *part, bool owners)
{
	const struct tar_member *member = &entry->member;
	struct stat st;
	int error;

	error = fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) ? EISDIR : 0;
	if (error)
		report(member->name, "cannot replace a directory with a file");
	else if ((error = new_file_create(&file, above)))
		report_errno(member->name, error);
	if (error) {
		skip_content(entry);
		return;
	}
	writing = true;
	error = put_content(entry);
	if (!error) {
		if (fchmod(file.fd, set_owner(file.fd, "", member, owners)) < 0)
			report_errno(member->name, errno);
		set_time(file.fd, time_of(member));
		writing = false;
		error = new_file_commit(&file, part);
	}
	if (error)
		report_errno(member->name, error);
	unpack_file_abandon();
}
