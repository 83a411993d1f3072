/* pack PATH NAME [follow]: a file or a tree as a tar stream in the GNU format, in which it is called NAME.
 *
 * The stream is whole whatever happens to the files meanwhile: one that shrinks is filled up with zeros, one that grows
 * is cut. What could not be read is told at the end, and the rest is there. */
#define _GNU_SOURCE
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char *top;   /* PATH as it was given */
static char *name;        /* of the member at hand */
static size_t top_length; /* of NAME: what follows it in `name` follows PATH, too */
static char *buffer;

static const char *below(void)
{
	return name + top_length;
}

static void put_member(char type, const struct stat *st, char *link, uint64_t size)
{
	struct tar_member member = {
		.type = type,
		.name = name,
		.link = link,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.size = size,
		.seconds = st->st_mtim.tv_sec,
		.major = major(st->st_rdev),
		.minor = minor(st->st_rdev),
	};

	tar_put(&member);
	if (type != '1' && type != '5' && st->st_nlink > 1)
		links_add(st->st_dev, st->st_ino, name);
}

/* The file's length by reading it; it is then at its beginning again. -1: it cannot be read twice. */
static int64_t count_bytes(int fd)
{
	int64_t size = 0;
	ssize_t got;

	if (lseek(fd, 0, SEEK_SET) < 0)
		return -1;
	while ((got = read_full(fd, buffer, PIECE)) > 0)
		size += got;
	return lseek(fd, 0, SEEK_SET) < 0 ? -1 : size;
}

/* The content of a file of which the first `ready` bytes are in the buffer. */
static void put_content(int fd, uint64_t ready, uint64_t size)
{
	uint64_t left = size;

	while (left > 0) {
		uint64_t want = left < PIECE ? left : PIECE;
		ssize_t got = ready > 0 ? (ssize_t)(ready < want ? ready : want) : read_full(fd, buffer, (size_t)want);

		if (got < 0)
			report_errno(top, below(), errno);
		else if (got == 0)
			report(top, below(), "it became shorter while it was read; its copy ends with zeros");
		if (got <= 0)
			break;
		out_bytes(buffer, (size_t)got);
		left -= (uint64_t)got;
		ready = 0;
	}
	out_zeros(left);
	tar_put_padding(size);
}

/* A file that says a length that it does not have, as those of /proc and /sys do, is measured by reading it. */
static void pack_file(int parent, const char *entry, int follow)
{
	int fd = openat(parent, entry, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
	struct stat st;
	ssize_t got;
	int64_t size;

	if (fd < 0 || fstat(fd, &st) < 0 || (got = read_full(fd, buffer, PIECE)) < 0) {
		report_errno(top, below(), errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	size = got;
	if (got == PIECE && fstat(fd, &st) == 0) {
		size = st.st_size;
		if (size <= got) {
			size = count_bytes(fd);
			got = 0;
		}
	}
	if (size < 0) {
		report(top, below(), "its length is not known, and it cannot be read twice");
	} else {
		put_member('0', &st, NULL, (uint64_t)size);
		put_content(fd, (uint64_t)got, (uint64_t)size);
	}
	close(fd);
}

/* What the kernel makes up: without end in places, and of no use elsewhere. */
static bool is_kernels(int fd, const struct stat *st)
{
	static const unsigned long kinds[] = {
		0x9fa0,     /* proc */
		0x62656572, /* sysfs */
		0x1cd1,     /* devpts */
		0x63677270, /* cgroup2 */
		0x27e0eb,   /* cgroup */
		0x64626720, /* debugfs */
		0x74726163, /* tracefs */
		0x73636673, /* securityfs */
		0xcafe4a11, /* bpf */
		0x6165676c, /* pstore */
	};
	struct stat devices;
	struct statfs system;

	if (stat("/dev", &devices) == 0 && devices.st_dev == st->st_dev && devices.st_ino == st->st_ino)
		return true;
	if (fstatfs(fd, &system) < 0)
		return false;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if ((unsigned long)system.f_type == kinds[i])
			return true;
	return false;
}

static void pack_entry(int parent, const char *entry, size_t length, int follow, dev_t device);

static void pack_directory(int parent, const char *entry, size_t length, int follow, const struct stat *st, dev_t device)
{
	int fd = openat(parent, entry, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
	bool inside = length > top_length;
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *one;

	if (!directory) {
		report_errno(top, below(), errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	memcpy(name + length, "/", 2);
	put_member('5', st, NULL, 0);
	if (inside && st->st_dev != device && is_kernels(fd, st)) {
		name[length] = '\0';
		closedir(directory);
		return;
	}
	while (errno = 0, (one = readdir(directory))) {
		size_t size = strlen(one->d_name);

		if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0)
			continue;
		/* One more for the slash of a directory. */
		if (length + size + 3 > NAME_ROOM) {
			report_errno(top, below(), ENAMETOOLONG);
			continue;
		}
		memcpy(name + length + 1, one->d_name, size + 1);
		pack_entry(fd, name + length + 1, length + 1 + size, 0, st->st_dev);
	}
	name[length] = '\0';
	if (errno)
		report_errno(top, below(), errno);
	closedir(directory);
}

static void pack_link(int parent, const char *entry, const struct stat *st)
{
	char link[PATH_MAX];
	ssize_t size = readlinkat(parent, entry, link, sizeof link - 1);

	if (size < 0) {
		report_errno(top, below(), errno);
		return;
	}
	link[size] = '\0';
	put_member('2', st, link, 0);
}

/* `entry` of the directory `parent`; its name as a member has `length` bytes and is in `name`. */
static void pack_entry(int parent, const char *entry, size_t length, int follow, dev_t device)
{
	struct stat st;
	const char *earlier;

	if (fstatat(parent, entry, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
		/* One that is gone meanwhile is not there. */
		if (errno != ENOENT || length == top_length)
			report_errno(top, below(), errno);
		return;
	}
	earlier = !S_ISDIR(st.st_mode) && st.st_nlink > 1 ? links_find(st.st_dev, st.st_ino) : NULL;
	if (earlier)
		put_member('1', &st, (char *)earlier, 0);
	else if (S_ISREG(st.st_mode))
		pack_file(parent, entry, follow);
	else if (S_ISDIR(st.st_mode))
		pack_directory(parent, entry, length, follow, &st, device);
	else if (S_ISLNK(st.st_mode))
		pack_link(parent, entry, &st);
	else if (S_ISCHR(st.st_mode))
		put_member('3', &st, NULL, 0);
	else if (S_ISBLK(st.st_mode))
		put_member('4', &st, NULL, 0);
	else if (S_ISFIFO(st.st_mode))
		put_member('6', &st, NULL, 0);
	else if (length == top_length)
		report(top, below(), "it is a socket, which cannot be copied");
	/* Sockets within a tree are of no use without the program that made them, and no archive has them. */
}

int pack_program(char **words)
{
	top = words[0];
	top_length = strlen(words[1]);
	if (top_length + 2 > NAME_ROOM) {
		report_errno(top, "", ENAMETOOLONG);
		return reported();
	}
	name = room_for(NAME_ROOM);
	buffer = room_for(PIECE);
	memcpy(name, words[1], top_length + 1);
	pack_entry(AT_FDCWD, top, top_length, words[2] ? 1 : 0, 0);
	tar_put_end();
	return reported();
}
