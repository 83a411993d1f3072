/* The directories that a tar stream is unpacked into: the base, and those of the stream that later members may be in.
 * They stay open, because a stream mostly lists a directory and then what is in it. */
#define _GNU_SOURCE
#include "unpack_directories.h"
#include "file_io.h"
#include "file_report.h"
#include "inode_table.h"
#include "tar.h"
#include "unpack_attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 4096 };

struct open_directory {
	size_t length; /* of its name in `current` */
	int fd;
	mode_t mode;
	struct timespec changed;
};

static int base;
static struct open_directory *stack;
static int depth;
static char *current; /* the name of the last one */

void directories_open(const char *path)
{
	base = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (base < 0)
		fail(errno);
	stack = room_for(MAX_DEPTH * sizeof *stack);
	current = room_for(NAME_ROOM);
}

bool clean_name(char *name)
{
	char *to = name;

	for (char *part = name; *part;) {
		size_t size = strcspn(part, "/");
		char *next = part + size + (part[size] ? 1 : 0);

		if (size == 2 && memcmp(part, "..", 2) == 0)
			return false;
		if (size > 0 && !(size == 1 && *part == '.')) {
			if (to > name)
				*to++ = '/';
			memmove(to, part, size);
			to += size;
		}
		part = next;
	}
	*to = '\0';
	return true;
}

static bool is_inside(const char *name, size_t length)
{
	return length == 0 || (strncmp(name, current, length) == 0 && name[length] == '/');
}

void directories_leave(const char *name)
{
	while (depth > 0 && (!name || !is_inside(name, stack[depth - 1].length))) {
		struct open_directory *last = &stack[--depth];

		if (fchmod(last->fd, last->mode) < 0) {
			current[last->length] = '\0';
			report_errno(current, errno);
		}
		set_time(last->fd, last->changed);
		close(last->fd);
		if (depth > 0)
			current[stack[depth - 1].length] = '\0';
	}
}

void directories_enter(int fd, const char *name, mode_t mode, struct timespec changed)
{
	size_t length = strlen(name);

	/* The stream may write into it, whatever its mode. */
	fchmod(fd, mode | S_IRWXU);
	if (depth == MAX_DEPTH) {
		fchmod(fd, mode);
		close(fd);
		return;
	}
	memcpy(current, name, length + 1);
	stack[depth++] = (struct open_directory){.length = length, .fd = fd, .mode = mode, .changed = changed};
}

bool may_follow(int directory, const char *part)
{
	struct stat st;

	if (fstatat(directory, part, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(st.st_mode))
		return true;
	return !inode_table_full() && !inode_table_find(st.st_dev, st.st_ino);
}

/* The directory `part` of `at`; -1: an error, which has been reported with `name`. */
static int open_part(int at, const char *part, const char *name, bool make)
{
	int fd;

	if (!may_follow(at, part)) {
		report(name, "refusing to follow this link of the archive, which points outside of it");
		return -1;
	}
	fd = openat(at, part, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && make) {
		mkdirat(at, part, 0755);
		fd = openat(at, part, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		report_errno(name, errno);
	return fd;
}

int directories_open_above(char *name, char **last, bool make)
{
	bool nested = depth > 0 && is_inside(name, stack[depth - 1].length);
	int start = nested ? stack[depth - 1].fd : base, at = start;
	char *part = name + (nested ? stack[depth - 1].length + 1 : 0), *slash;

	while ((slash = strchr(part, '/'))) {
		int next;

		*slash = '\0';
		next = open_part(at, part, name, make);
		*slash = '/';
		if (at != start)
			close(at);
		if (next < 0)
			return -1;
		at = next;
		part = slash + 1;
	}
	*last = part;
	return at;
}

void directories_close(int directory)
{
	/* The last one may have been entered since. */
	for (int i = depth - 1; i >= 0 && i >= depth - 2; i--)
		if (directory == stack[i].fd)
			return;
	if (directory != base)
		close(directory);
}
