/* unpack DIR [owners]: a tar stream on standard input, unpacked in a directory. With `owners`, and as root, its files
 * get the owners that it names; otherwise they are ours.
 *
 * Reads what GNU tar and Python's tarfile write: old, ustar, GNU (long names, sparse files) and pax headers. As GNU tar
 * does by default, a leading "/" is dropped, a ".." refused, and nothing is put through a link of the same stream that
 * leads out of it; links that are there already are followed. What cannot be done for one member is told, and the next
 * one is taken; a stream that is damaged, or a full disk, ends it. */
#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum {
	PAX_ROOM = 1 << 20, /* one extended header: names, and attributes that are passed over */
	MAX_DEPTH = 4096,
	MAX_SEGMENTS = 1 << 16, /* stretches of content in one sparse file */
	SPARSE_IN_HEADER = 4,
	SPARSE_IN_BLOCK = 21,
	HOLE = 4096, /* so many zeros are not written */
};

/* A directory that more members may follow into: its own mode and time are set when the stream has left it. */
struct pending {
	size_t length; /* of its name in `pending_name` */
	int fd;
	mode_t mode;
	struct timespec changed;
};

struct segment {
	uint64_t offset, size;
};

/* What an extended header (pax) says of the member after it. */
struct extension {
	char *path, *link, *sparse_name;
	bool has_size, has_uid, has_gid, has_time, sparse, old_sparse;
	uint64_t size, uid, gid, real_size;
	struct timespec changed;
};

static const char *top;
static bool owners;
static int base;
static char *input;
static size_t input_at, input_end;
static uint64_t consumed;
static struct pending *pending;
static char *pending_name;
static int depth;
static struct segment *segments;
static size_t segment_count;
/* The file that is being written, which is there whole or not at all. */
static int unfinished_in;
static const char *unfinished;
static bool ends_in_hole;

/* --- the stream --- */

static void leave(const char *text);

static _Noreturn void give_up(const char *below, const char *what)
{
	report(top, below, what);
	if (unfinished)
		unlinkat(unfinished_in, unfinished, 0);
	leave(NULL);
	_exit(reported());
}

/* What is there of the stream, at most `most` bytes; 0 at its end. */
static size_t take(uint8_t **from, uint64_t most)
{
	size_t size;

	if (input_at == input_end) {
		ssize_t got;

		do
			got = read(STDIN_FILENO, input, PIECE);
		while (got < 0 && errno == EINTR);
		if (got < 0)
			give_up("", "the archive cannot be read");
		input_at = 0;
		input_end = (size_t)got;
	}
	size = input_end - input_at;
	if (size > most)
		size = (size_t)most;
	*from = (uint8_t *)input + input_at;
	input_at += size;
	consumed += size;
	return size;
}

static size_t take_into(void *to, size_t size)
{
	size_t done = 0, got;
	uint8_t *from;

	while (done < size && (got = take(&from, size - done)) > 0) {
		memcpy((char *)to + done, from, got);
		done += got;
	}
	return done;
}

static void take_whole(void *to, size_t size, const char *below)
{
	if (take_into(to, size) < size)
		give_up(below, "the archive ends in the middle of this");
}

static void pass_over(uint64_t size, const char *below)
{
	uint8_t *from;
	size_t got;

	for (; size > 0; size -= got) {
		got = take(&from, size);
		if (got == 0)
			give_up(below, "the archive ends in the middle of this");
	}
}

static uint64_t padding(uint64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

/* --- names --- */

/* Brings a name of the archive into the form "a/b/c" (nothing: the directory itself). False: it has a "..". */
static bool clean(char *text)
{
	char *to = text;

	for (char *part = text; *part;) {
		size_t size = strcspn(part, "/");
		char *next = part + size + (part[size] ? 1 : 0);

		if (size == 2 && memcmp(part, "..", 2) == 0)
			return false;
		if (size > 0 && !(size == 1 && *part == '.')) {
			if (to > text)
				*to++ = '/';
			memmove(to, part, size);
			to += size;
		}
		part = next;
	}
	*to = '\0';
	return true;
}

static bool leads_out(const char *link)
{
	if (*link == '/')
		return true;
	for (const char *part = link; *part; part += strspn(part, "/")) {
		size_t size = strcspn(part, "/");

		if (size == 2 && memcmp(part, "..", 2) == 0)
			return true;
		part += size;
	}
	return false;
}

static bool is_inside(const char *text, const char *directory, size_t length)
{
	return length == 0 || (strncmp(text, directory, length) == 0 && text[length] == '/');
}

static void set_times(int fd, const struct timespec *changed)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, *changed};

	/* A time that the file system cannot hold is no reason to fail. */
	if (futimens(fd, times) < 0)
		errno = 0;
}

/* Ends the directories that `text` is not inside of. */
static void leave(const char *text)
{
	while (depth > 0 && (!text || !is_inside(text, pending_name, pending[depth - 1].length))) {
		struct pending *last = &pending[--depth];

		if (fchmod(last->fd, last->mode) < 0) {
			pending_name[last->length] = '\0';
			report_errno(top, pending_name, errno);
		}
		set_times(last->fd, &last->changed);
		close(last->fd);
		if (depth > 0)
			pending_name[pending[depth - 1].length] = '\0';
	}
}

/* Whether a link may be gone through: not one that came with this stream and leads out of it. */
static bool may_follow(int directory, const char *part)
{
	struct stat st;

	if (fstatat(directory, part, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(st.st_mode))
		return true;
	return !links_full() && !links_find(st.st_dev, st.st_ino);
}

/* Opens the directory that the member `text` is to be in, and says where its last part begins. Directories that are
 * not there are made. To be closed by `done_with`. Returns -1 if it cannot be; that has been told. */
static int open_above(char *text, char **last, bool make)
{
	size_t start = depth > 0 && is_inside(text, pending_name, pending[depth - 1].length)
			       ? pending[depth - 1].length + 1
			       : 0;
	int at = start ? pending[depth - 1].fd : base;
	char *part = text + start, *slash;

	while ((slash = strchr(part, '/'))) {
		int next = -1, error = 0;

		*slash = '\0';
		if (!may_follow(at, part)) {
			report(top, text, "it is a link in the archive that leads out of it, and nothing is put through it");
			error = -1;
		} else {
			next = openat(at, part, O_PATH | O_DIRECTORY | O_CLOEXEC);
			if (next < 0 && errno == ENOENT && make) {
				mkdirat(at, part, 0755);
				next = openat(at, part, O_PATH | O_DIRECTORY | O_CLOEXEC);
			}
			error = next < 0 ? errno : 0;
			if (error)
				report_errno(top, text, error);
		}
		*slash = '/';
		if (at != base && !(start && at == pending[depth - 1].fd))
			close(at);
		if (error)
			return -1;
		at = next;
		part = slash + 1;
	}
	*last = part;
	return at;
}

static void done_with(int directory)
{
	/* The last one may have been added since. */
	for (int i = depth - 1; i >= 0 && i >= depth - 2; i--)
		if (directory == pending[i].fd)
			return;
	if (directory != base)
		close(directory);
}

/* --- members --- */

/* Owner, then mode: a change of owner takes set-user-id bits away. Those stay only where the owner is the one that they
 * were meant for. */
static mode_t own(int fd, const char *part, const struct tar_member *member)
{
	mode_t mode = member->mode & 07777;
	bool uid_fits = member->uid < (uid_t)-1, gid_fits = member->gid < (gid_t)-1;

	if (owners && uid_fits && gid_fits) {
		if (fchownat(fd, part, (uid_t)member->uid, (gid_t)member->gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0)
			return mode;
		report(top, member->name, "its owner cannot be set");
	}
	if (member->uid != geteuid())
		mode &= ~(mode_t)S_ISUID;
	if (member->gid != getegid())
		mode &= ~(mode_t)S_ISGID;
	return mode;
}

static void make_directory(struct tar_member *member, int above, char *part)
{
	size_t length = strlen(member->name);
	struct stat st;
	mode_t mode;
	int fd;

	if (mkdirat(above, part, 0700) < 0 && errno != EEXIST) {
		report_errno(top, member->name, errno);
		return;
	}
	fd = openat(above, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		/* A link to a directory is gone through, and the directory stays as it is. */
		if (fstatat(above, part, &st, 0) == 0 && S_ISDIR(st.st_mode) && may_follow(above, part))
			return;
		if (fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode))
			report(top, member->name, "it is not a directory, and a directory does not replace it");
		else
			report_errno(top, member->name, errno);
		return;
	}
	mode = own(fd, "", member);
	fchmod(fd, mode | S_IRWXU);
	if (depth == MAX_DEPTH) {
		fchmod(fd, mode);
		close(fd);
		return;
	}
	memcpy(pending_name, member->name, length + 1);
	pending[depth++] = (struct pending){
		.length = length, .fd = fd, .mode = mode, .changed = {member->seconds, member->nanoseconds}};
}

/* Removes what is in the way. False: it is a directory. */
static bool make_way(const struct tar_member *member, int above, const char *part)
{
	struct stat st;

	if (fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return true;
	if (S_ISDIR(st.st_mode)) {
		report(top, member->name, "it is a directory, and a file does not replace it");
		return false;
	}
	if (unlinkat(above, part, 0) < 0 && errno != ENOENT) {
		report_errno(top, member->name, errno);
		return false;
	}
	return true;
}

/* Writes one piece at the file's position; zeros become a hole. Returns errno. */
static int put_piece(int fd, const uint8_t *from, size_t size)
{
	static const uint8_t zeros[HOLE];

	while (size > 0) {
		size_t part = size < HOLE ? size : HOLE;
		size_t run = 0;

		if (part == HOLE && memcmp(from, zeros, HOLE) == 0) {
			if (lseek(fd, HOLE, SEEK_CUR) < 0)
				return errno;
			ends_in_hole = true;
		} else {
			/* Up to the next hole in one write. */
			do {
				run += part;
				part = size - run < HOLE ? size - run : HOLE;
			} while (run < size && !(part == HOLE && memcmp(from + run, zeros, HOLE) == 0));
			if (!write_full(fd, from, run))
				return errno;
			ends_in_hole = false;
			part = run;
		}
		from += part;
		size -= part;
	}
	return 0;
}

/* The content of one member, `stored` bytes of the stream. False: it could not be written, and was passed over. */
static bool put_content(int fd, const struct tar_member *member, uint64_t stored)
{
	uint64_t left = stored;
	int error = 0;

	for (size_t i = 0; i < segment_count; i++) {
		uint64_t size = segments[i].size;
		uint8_t *from;
		size_t got;

		if (!error && lseek(fd, (off_t)segments[i].offset, SEEK_SET) < 0)
			error = errno;
		for (; size > 0; size -= got, left -= got) {
			got = take(&from, size);
			if (got == 0)
				give_up(member->name, "the archive ends in the middle of this");
			if (!error)
				error = put_piece(fd, from, got);
			if (error == ENOSPC || error == EDQUOT || error == EIO || error == EROFS)
				give_up(member->name, strerror(error));
		}
	}
	if (!error && (ends_in_hole || member->size != stored) && ftruncate(fd, (off_t)member->size) < 0)
		error = errno;
	if (error)
		report_errno(top, member->name, error);
	pass_over(left + padding(stored), member->name);
	return !error;
}

static void name_beside(char beside[NAME_MAX + 1])
{
	snprintf(beside, NAME_MAX + 1, ".ballonet.%d.%llu", (int)getpid(), (unsigned long long)consumed);
}

/* A file is seen, and replaces another, when it is whole. It has no name until then where the file system has such files
 * (nothing is left of it when we are killed), else the name `beside`. Returns it, or -1 if it cannot be made; that has
 * been told. */
static int open_new(const struct tar_member *member, int above, const char *part, char beside[NAME_MAX + 1])
{
	struct stat st;
	int fd;

	*beside = '\0';
	if (fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
		report(top, member->name, "it is a directory, and a file does not replace it");
		return -1;
	}
	fd = openat(above, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0) {
		name_beside(beside);
		fd = openat(above, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	}
	if (fd < 0)
		report_errno(top, member->name, errno);
	return fd;
}

static bool link_file(int fd, int above, const char *name)
{
	char self[64];

	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	return linkat(fd, "", above, name, AT_EMPTY_PATH) == 0 ||
	       (errno != EEXIST && linkat(AT_FDCWD, self, above, name, AT_SYMLINK_FOLLOW) == 0);
}

/* Gives a file without a name its own, or `beside` if there is another of that name. Returns errno. */
static int name_file(int fd, int above, const char *part, char beside[NAME_MAX + 1])
{
	if (link_file(fd, above, part))
		return 0;
	if (errno != EEXIST)
		return errno;
	name_beside(beside);
	if (link_file(fd, above, beside))
		return 0;
	*beside = '\0';
	return errno;
}

static void make_file(struct tar_member *member, int above, const char *part, uint64_t stored)
{
	const struct timespec changed = {member->seconds, member->nanoseconds};
	char beside[NAME_MAX + 1];
	int fd = open_new(member, above, part, beside), error = 0;
	bool whole;

	if (fd < 0) {
		pass_over(stored + padding(stored), member->name);
		return;
	}
	unfinished_in = above;
	unfinished = *beside ? beside : NULL;
	ends_in_hole = false;
	whole = put_content(fd, member, stored);
	if (fchmod(fd, own(fd, "", member)) < 0)
		report_errno(top, member->name, errno);
	set_times(fd, &changed);
	if (whole && !*beside)
		error = name_file(fd, above, part, beside);
	if (close(fd) < 0 && !error)
		error = errno;
	if (whole && !error && *beside && renameat(above, beside, above, part) < 0)
		error = errno;
	if (error)
		report_errno(top, member->name, error);
	if ((error || !whole) && *beside)
		unlinkat(above, beside, 0);
	unfinished = NULL;
}

static void make_hard_link(struct tar_member *member, int above, const char *part)
{
	struct stat st, there;
	char *other;
	int from;

	if (!clean(member->link) || !*member->link) {
		report(top, member->name, "it is a link to a path that has a \"..\", or to none");
		return;
	}
	from = open_above(member->link, &other, false);
	if (from < 0)
		return;
	if (fstatat(from, other, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		report(top, member->name, "it is a link to a file that is not there");
	} else if (fstatat(above, part, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_dev == st.st_dev &&
		   there.st_ino == st.st_ino) {
		/* It is there already; removing it first would lose it. */
	} else if (make_way(member, above, part) && linkat(from, other, above, part, 0) < 0) {
		report_errno(top, member->name, errno);
	}
	done_with(from);
}

static void make_special(struct tar_member *member, int above, const char *part)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {member->seconds, member->nanoseconds}};
	static const mode_t kinds[] = {['3'] = S_IFCHR, ['4'] = S_IFBLK, ['6'] = S_IFIFO};
	struct stat st;
	int made;

	if (!make_way(member, above, part))
		return;
	if (member->type == '2')
		made = symlinkat(member->link, above, part);
	else
		made = mknodat(above, part, kinds[(unsigned char)member->type] | 0600,
			       makedev(member->major, member->minor));
	if (made < 0) {
		report_errno(top, member->name, errno);
		return;
	}
	if (member->type == '2') {
		own(above, part, member);
		if (leads_out(member->link) && fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0)
			links_add(st.st_dev, st.st_ino, "");
	} else {
		fchmodat(above, part, own(above, part, member), 0);
	}
	utimensat(above, part, times, AT_SYMLINK_NOFOLLOW);
}

/* `stored`: what follows the header in the stream. */
static void make_member(struct tar_member *member, uint64_t stored)
{
	bool is_file = member->type == '0' || member->type == '7' || member->type == 'S';
	char *part;
	int above;

	if (!is_file)
		pass_over(stored + padding(stored), member->name);
	if (!clean(member->name)) {
		report(top, member->name, "its name in the archive has a \"..\", which is refused");
	} else if (!*member->name) {
		/* The directory itself was there before, and stays as it is. */
		if (member->type != '5')
			report(top, "", "a member of the archive has no name");
	} else {
		leave(member->name);
		above = open_above(member->name, &part, true);
		if (above >= 0 && member->type == '5') {
			make_directory(member, above, part);
		} else if (above >= 0 && member->type == '1') {
			make_hard_link(member, above, part);
		} else if (above >= 0 && is_file) {
			make_file(member, above, part, stored);
		} else if (above >= 0) {
			make_special(member, above, part);
		}
		if (above >= 0) {
			done_with(above);
			return;
		}
	}
	if (is_file)
		pass_over(stored + padding(stored), member->name);
}

/* --- headers --- */

static bool parse_number(const char *text, const char *end, uint64_t *value)
{
	uint64_t number = 0;

	if (text == end)
		return false;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9' || number > (uint64_t)INT64_MAX / 10 - 1)
			return false;
		number = number * 10 + (uint64_t)(*text - '0');
	}
	*value = number;
	return true;
}

/* Seconds, perhaps with a fraction, perhaps before 1970. */
static bool parse_time(const char *text, const char *end, struct timespec *time)
{
	bool negative = text < end && *text == '-';
	const char *point = memchr(text, '.', (size_t)(end - text));
	uint64_t seconds;
	long nanoseconds = 0, unit = 100000000;

	if (!parse_number(text + negative, point ? point : end, &seconds))
		return false;
	for (const char *at = point ? point + 1 : end; at < end; at++, unit /= 10) {
		if (*at < '0' || *at > '9')
			return false;
		nanoseconds += (*at - '0') * unit;
	}
	time->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
	time->tv_nsec = nanoseconds;
	if (negative && nanoseconds) {
		time->tv_sec--;
		time->tv_nsec = 1000000000 - nanoseconds;
	}
	return true;
}

static bool apply_record(struct extension *extension, const char *key, char *value, char *end)
{
	if (strcmp(key, "path") == 0) {
		extension->path = value;
		return strlen(value) == (size_t)(end - value);
	}
	if (strcmp(key, "GNU.sparse.name") == 0) {
		extension->sparse_name = value;
		return strlen(value) == (size_t)(end - value);
	}
	if (strcmp(key, "linkpath") == 0) {
		extension->link = value;
		return strlen(value) == (size_t)(end - value);
	}
	if (strcmp(key, "size") == 0)
		return extension->has_size = parse_number(value, end, &extension->size);
	if (strcmp(key, "uid") == 0)
		return extension->has_uid = parse_number(value, end, &extension->uid);
	if (strcmp(key, "gid") == 0)
		return extension->has_gid = parse_number(value, end, &extension->gid);
	if (strcmp(key, "mtime") == 0)
		return extension->has_time = parse_time(value, end, &extension->changed);
	if (strcmp(key, "GNU.sparse.major") == 0)
		extension->sparse = strcmp(value, "1") == 0;
	if (strcmp(key, "GNU.sparse.realsize") == 0)
		return parse_number(value, end, &extension->real_size);
	if (strcmp(key, "GNU.sparse.map") == 0 || strcmp(key, "GNU.sparse.offset") == 0)
		extension->old_sparse = true;
	return true;
}

/* "LENGTH KEY=VALUE\n", one after the other (POSIX, "pax Extended Header"). False: it is damaged. */
static bool parse_extension(char *text, size_t size, struct extension *extension)
{
	char *end = text + size;

	while (text < end) {
		char *space = memchr(text, ' ', (size_t)(end - text)), *equals;
		uint64_t length;

		if (!space || !parse_number(text, space, &length) || length > (uint64_t)(end - text) ||
		    length < (uint64_t)(space - text) + 3 || text[length - 1] != '\n')
			return false;
		equals = memchr(space, '=', (size_t)(text + length - space));
		if (!equals)
			return false;
		*equals = text[length - 1] = '\0';
		if (!apply_record(extension, space + 1, equals + 1, text + length - 1))
			return false;
		text += length;
	}
	return true;
}

static void add_segment(uint64_t offset, uint64_t size, const char *below)
{
	if (segment_count == MAX_SEGMENTS)
		give_up(below, "it is a sparse file of too many parts");
	if (offset > INT64_MAX || size > INT64_MAX || offset + size > INT64_MAX)
		give_up(below, "the archive is damaged here: a sparse file has impossible parts");
	segments[segment_count++] = (struct segment){offset, size};
}

static void add_header_segments(const uint8_t *from, int count, const char *below)
{
	for (int i = 0; i < count && from[24 * i]; i++) {
		int64_t offset, size;

		if (!tar_number(from + 24 * i, 12, &offset) || !tar_number(from + 24 * i + 12, 12, &size))
			give_up(below, "the archive is damaged here: a sparse file has impossible parts");
		add_segment((uint64_t)offset, (uint64_t)size, below);
	}
}

/* The GNU format's own: parts in the header, and in blocks after it. */
static void read_old_map(const uint8_t *header, struct tar_member *member)
{
	uint8_t block[TAR_BLOCK];
	int64_t real_size;
	bool more = header[482];

	add_header_segments(header + 386, SPARSE_IN_HEADER, member->name);
	while (more) {
		take_whole(block, sizeof block, member->name);
		add_header_segments(block, SPARSE_IN_BLOCK, member->name);
		more = block[504];
	}
	if (!tar_number(header + 483, 12, &real_size) || real_size < 0)
		give_up(member->name, "the archive is damaged here: a sparse file has no length");
	member->size = (uint64_t)real_size;
}

/* A decimal number and a newline of a map that stands before the content; the map is whole blocks. */
static uint64_t read_map_number(uint64_t *stored, const char *below)
{
	char digits[24];
	size_t size = 0;
	uint64_t number;
	uint8_t *byte;

	while (*stored > 0 && take(&byte, 1) == 1) {
		--*stored;
		if (*byte == '\n')
			break;
		if (size < sizeof digits)
			digits[size++] = (char)*byte;
	}
	if (size == sizeof digits || !parse_number(digits, digits + size, &number))
		give_up(below, "the archive is damaged here: a sparse file has impossible parts");
	return number;
}

static void read_new_map(struct tar_member *member, uint64_t *stored)
{
	uint64_t before = *stored, rest;
	uint64_t count = read_map_number(stored, member->name);

	for (uint64_t i = 0; i < count; i++) {
		uint64_t offset = read_map_number(stored, member->name);

		add_segment(offset, read_map_number(stored, member->name), member->name);
	}
	rest = padding(before - *stored);
	if (rest > *stored)
		rest = *stored;
	pass_over(rest, member->name);
	*stored -= rest;
}

/* The parts of a file must be in what is stored of it, and within its length. */
static void check_segments(const struct tar_member *member, uint64_t stored)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < segment_count; i++) {
		sum += segments[i].size;
		if (sum > stored || segments[i].offset + segments[i].size > member->size)
			give_up(member->name, "the archive is damaged here: a sparse file has impossible parts");
	}
}

static void copy_field(char *to, const uint8_t *from, size_t size)
{
	memcpy(to, from, size);
	to[size] = '\0';
}

/* The name in a header: in two parts in ustar's. */
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

/* Takes the content of a member that only tells about the next one. */
static void take_text(char *to, size_t room, uint64_t size, const char *what)
{
	if (size >= room)
		give_up("", what);
	take_whole(to, (size_t)size, "");
	to[size] = '\0';
	pass_over(padding(size), "");
}

static _Noreturn void damaged(void)
{
	char where[80];

	if (consumed == TAR_BLOCK)
		give_up("", "what came is not a tar archive");
	snprintf(where, sizeof where, "the archive is damaged at byte %llu", (unsigned long long)consumed - TAR_BLOCK);
	give_up("", where);
}

static void unpack_all(void)
{
	char *name = room_for(NAME_ROOM), *link = room_for(NAME_ROOM), *records = room_for(PAX_ROOM);
	uint8_t header[TAR_BLOCK];
	bool has_name = false, has_link = false;
	struct extension extension = {0};
	size_t got;

	while ((got = take_into(header, sizeof header)) == sizeof header) {
		struct tar_member member = {.type = (char)header[156], .name = name, .link = link};
		uint64_t stored;
		int64_t size;

		/* One such block, or two: the end. */
		if (tar_is_zero(header))
			return;
		if (!tar_checksum_fits(header) || !read_numbers(header, &member, &size))
			damaged();
		stored = (uint64_t)size;
		switch (member.type) {
		case 'L':
			take_text(name, NAME_ROOM, stored, "a name in the archive is too long");
			has_name = true;
			continue;
		case 'K':
			take_text(link, NAME_ROOM, stored, "a link in the archive is too long");
			has_link = true;
			continue;
		case 'x':
		case 'X':
			take_text(records, PAX_ROOM, stored, "an extended header of the archive is too long");
			extension = (struct extension){0};
			if (!parse_extension(records, (size_t)stored, &extension))
				give_up("", "an extended header of the archive is damaged");
			continue;
		case 'g':
		case 'V':
			/* What holds for all members (a comment, mostly), and a volume's name. */
			pass_over(stored + padding(stored), "");
			continue;
		}
		if (!has_name)
			read_name(name, header);
		if (!has_link)
			copy_field(link, header + 157, 100);
		if (extension.path)
			member.name = extension.path;
		if (extension.sparse && extension.sparse_name)
			member.name = extension.sparse_name;
		if (extension.link)
			member.link = extension.link;
		if (strlen(member.name) >= NAME_ROOM || strlen(member.link) >= NAME_ROOM)
			give_up("", "a name in the archive is too long");
		if (extension.has_uid)
			member.uid = extension.uid;
		if (extension.has_gid)
			member.gid = extension.gid;
		if (extension.has_size)
			stored = extension.size;
		if (extension.has_time) {
			member.seconds = extension.changed.tv_sec;
			member.nanoseconds = extension.changed.tv_nsec;
		}
		if (stored > (uint64_t)INT64_MAX - TAR_BLOCK)
			damaged();
		if (member.type == '\0')
			/* Before ustar, a directory was a file with a slash. */
			member.type = *member.name && member.name[strlen(member.name) - 1] == '/' ? '5' : '0';
		/* What has no content may say a size all the same (POSIX, "ustar Interchange Format"). */
		if (strchr("123456", member.type))
			stored = 0;
		/* Of an incremental dump: it has a list of names as its content. */
		if (member.type == 'D')
			member.type = '5';
		member.size = stored;
		segment_count = 0;
		if (!strchr("01234567S", member.type) || extension.old_sparse)
			give_up(member.name, "it is of a kind that cannot be unpacked (a part of several volumes, or a sparse "
					     "file of an old form)");
		if (member.type == 'S') {
			read_old_map(header, &member);
		} else if (extension.sparse && member.type == '0') {
			member.size = extension.real_size;
			read_new_map(&member, &stored);
		} else {
			add_segment(0, stored, member.name);
		}
		check_segments(&member, stored);
		make_member(&member, stored);
		has_name = has_link = false;
		extension = (struct extension){0};
	}
	if (got > 0 || consumed == 0)
		give_up("", consumed == got ? "what came is not a tar archive" : "the archive ends in the middle of a header");
}

int unpack_program(char **words)
{
	top = words[0];
	owners = words[1] && geteuid() == 0;
	base = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (base < 0) {
		report_errno(top, "", errno);
		return reported();
	}
	input = room_for(PIECE);
	pending = room_for(MAX_DEPTH * sizeof *pending);
	pending_name = room_for(NAME_ROOM);
	segments = room_for(MAX_SEGMENTS * sizeof *segments);
	unpack_all();
	leave(NULL);
	return reported();
}
