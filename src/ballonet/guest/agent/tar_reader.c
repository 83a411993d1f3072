/* The members of the tar stream on standard input.
 *
 * Reads what GNU tar and Python's tarfile write: old, ustar, GNU (long names, sparse files) and pax headers. */
#define _GNU_SOURCE
#include "tar_reader.h"
#include "file_io.h"
#include "tar_pax.h"
#include "tar_stream.h"

#include <stdio.h>
#include <string.h>

enum { PAX_ROOM = 1 << 20 }; /* one extended header: names, and attributes that are ignored */

static char *name, *link_name, *records;

static void copy_field(char *to, const uint8_t *from, size_t size)
{
	memcpy(to, from, size);
	to[size] = '\0';
}

/* The name in a header. In a ustar header it has two parts. */
static void read_name(char *to, const uint8_t *header)
{
	size_t size = 0;

	if (memcmp(header + 257, "ustar\0", 6) == 0 && header[345]) {
		copy_field(to, header + 345, 155);
		size = strlen(to);
		to[size++] = '/';
	}
	copy_field(to + size, header, 100);
}

static bool read_numbers(const uint8_t *header, struct tar_member *member, int64_t *size)
{
	int64_t mode, uid, gid, changed, number = 0;

	if (!tar_number(header + 100, 8, &mode) || !tar_number(header + 108, 8, &uid) ||
	    !tar_number(header + 116, 8, &gid) || !tar_number(header + 124, 12, size) ||
	    !tar_number(header + 136, 12, &changed))
		return false;
	member->mode = (uint32_t)mode;
	member->uid = (uint64_t)uid;
	member->gid = (uint64_t)gid;
	member->seconds = changed;
	if (member->type == '3' || member->type == '4') {
		if (!tar_number(header + 329, 8, &number))
			return false;
		member->major = (uint32_t)number;
		if (!tar_number(header + 337, 8, &number))
			return false;
		member->minor = (uint32_t)number;
	}
	return *size >= 0;
}

/* Takes the content of a member that describes the next one. */
static void take_text(char *to, size_t room, uint64_t size, const char *what)
{
	if (size >= room)
		unpack_abort("", what);
	tar_stream_read_exactly(to, (size_t)size, "");
	to[size] = '\0';
	tar_stream_skip(tar_padding(size), "");
}

static _Noreturn void damaged(void)
{
	uint64_t position = tar_stream_position();
	char where[80];

	if (position == TAR_BLOCK)
		unpack_abort("", "the input is not a tar archive");
	snprintf(where, sizeof where, "the archive is damaged at byte %llu", (unsigned long long)position - TAR_BLOCK);
	unpack_abort("", where);
}

/* Reads headers until one of a file, and the names and the extension that precede it. False: the end. */
static bool read_headers(uint8_t header[TAR_BLOCK], struct tar_entry *entry, struct pax_extension *extension)
{
	bool has_name = false, has_link = false;
	size_t got;
	int64_t size;

	while ((got = tar_stream_read(header, TAR_BLOCK)) == TAR_BLOCK) {
		entry->member = (struct tar_member){.type = (char)header[156], .name = name, .link = link_name};
		/* One such block, or two: the end. */
		if (tar_is_zero(header))
			return false;
		if (!tar_checksum_fits(header) || !read_numbers(header, &entry->member, &size))
			damaged();
		entry->stored = (uint64_t)size;
		switch (entry->member.type) {
		case 'L':
			take_text(name, NAME_ROOM, entry->stored, "a name in the archive is too long");
			has_name = true;
			continue;
		case 'K':
			take_text(link_name, NAME_ROOM, entry->stored, "a link in the archive is too long");
			has_link = true;
			continue;
		case 'x':
		case 'X':
			take_text(records, PAX_ROOM, entry->stored, "an extended header of the archive is too long");
			*extension = (struct pax_extension){0};
			if (!pax_parse(records, (size_t)entry->stored, extension))
				unpack_abort("", "an extended header of the archive is damaged");
			continue;
		case 'g':
		case 'V':
			/* A header for all members (mostly a comment), and the name of a volume. */
			tar_stream_skip(entry->stored + tar_padding(entry->stored), "");
			continue;
		}
		if (!has_name)
			read_name(name, header);
		if (!has_link)
			copy_field(link_name, header + 157, 100);
		return true;
	}
	if (got > 0 || tar_stream_position() == 0)
		unpack_abort("", tar_stream_position() == got ? "the input is not a tar archive"
							      : "the archive ends in the middle of a header");
	return false;
}

static void apply_extension(const struct pax_extension *extension, struct tar_entry *entry)
{
	struct tar_member *member = &entry->member;

	if (extension->path)
		member->name = extension->path;
	if (extension->sparse && extension->sparse_name)
		member->name = extension->sparse_name;
	if (extension->link)
		member->link = extension->link;
	if (strlen(member->name) >= NAME_ROOM || strlen(member->link) >= NAME_ROOM)
		unpack_abort("", "a name in the archive is too long");
	if (extension->has_uid)
		member->uid = extension->uid;
	if (extension->has_gid)
		member->gid = extension->gid;
	if (extension->has_size)
		entry->stored = extension->size;
	if (extension->has_time) {
		member->seconds = extension->changed.tv_sec;
		member->nanoseconds = extension->changed.tv_nsec;
	}
}

bool tar_read(struct tar_entry *entry)
{
	struct tar_member *member = &entry->member;
	struct pax_extension extension = {0};
	uint8_t header[TAR_BLOCK];

	if (!name) {
		name = room_for(NAME_ROOM);
		link_name = room_for(NAME_ROOM);
		records = room_for(PAX_ROOM);
	}
	if (!read_headers(header, entry, &extension))
		return false;
	apply_extension(&extension, entry);
	if (entry->stored > (uint64_t)INT64_MAX - TAR_BLOCK)
		damaged();
	if (member->type == '\0')
		/* Before ustar, a directory was a file with a slash. */
		member->type = *member->name && member->name[strlen(member->name) - 1] == '/' ? '5' : '0';
	/* A member without content may have a size all the same (POSIX, "ustar Interchange Format"). */
	if (strchr("123456", member->type))
		entry->stored = 0;
	/* A directory of an incremental dump: its content is a list of names. */
	if (member->type == 'D')
		member->type = '5';
	member->size = entry->stored;
	if (!strchr("01234567S", member->type) || extension.old_sparse)
		unpack_abort(member->name, "this kind of member is not supported (part of a multi-volume archive, or a "
					   "sparse file in an old format)");
	if (member->type == 'S') {
		sparse_read_old_map(header, member);
	} else if (extension.sparse && member->type == '0') {
		member->size = extension.real_size;
		sparse_read_new_map(member, &entry->stored);
	} else {
		sparse_set_plain(entry->stored, member->name);
	}
	entry->segments = sparse_segments(member, entry->stored);
	return true;
}
