/* The file program that makes a tar stream.
 *
 * The stream is complete whatever happens to the files meanwhile: one that shrinks is filled up with zeros, one that
 * grows is cut. What could not be read is reported at the end, and the rest is there. */
#define _GNU_SOURCE
#include "pack.h"
#include "file_io.h"
#include "file_report.h"
#include "inode_table.h"
#include "paths.h"
#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

static char *name;        /* of the current member */
static size_t top_length; /* of NAME: what follows it in `name` also follows PATH */
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
		inode_table_add(st->st_dev, st->st_ino, name);
}

/* The length of a file, by reading it; then goes back to its start. -1: it cannot be read twice. */
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

/* Writes the content of a file. Its first `ready` bytes are in the buffer. */
static void put_content(int fd, uint64_t ready, uint64_t size)
{
	uint64_t left = size;

	while (left > 0) {
		uint64_t want = left < PIECE ? left : PIECE;
		ssize_t got = ready > 0 ? (ssize_t)(ready < want ? ready : want) : read_full(fd, buffer, (size_t)want);

		if (got < 0)
			report_errno(below(), errno);
		else if (got == 0)
			report(below(), "it became shorter while it was read, so its copy ends with zeros");
		if (got <= 0)
			break;
		out_bytes(buffer, (size_t)got);
		left -= (uint64_t)got;
		ready = 0;
	}
	out_zeros(left);
	tar_put_padding(size);
}

/* A file whose size is wrong by stat, as in /proc and /sys, is measured by reading it. */
static void pack_file(int parent, const char *entry, int follow)
{
	int fd = openat(parent, entry, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
	struct stat st;
	ssize_t got;
	int64_t size;

	if (fd < 0 || fstat(fd, &st) < 0 || (got = read_full(fd, buffer, PIECE)) < 0) {
		report_errno(below(), errno);
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
		report(below(), "its length is unknown, and it cannot be read twice");
	} else {
		put_member('0', &st, NULL, (uint64_t)size);
		put_content(fd, (uint64_t)got, (uint64_t)size);
	}
	close(fd);
}

/* File systems of the kernel: some files have no end, and none is of use elsewhere. */
static bool is_pseudo(int fd, const struct stat *st)
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
		report_errno(below(), errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	memcpy(name + length, "/", 2);
	put_member('5', st, NULL, 0);
	if (inside && st->st_dev != device && is_pseudo(fd, st)) {
		name[length] = '\0';
		closedir(directory);
		return;
	}
	while ((one = next_entry(directory))) {
		size_t size = strlen(one->d_name);

		/* Two slashes and the NUL: a directory gets another slash. */
		if (length + size + 3 > NAME_ROOM) {
			report_errno(below(), ENAMETOOLONG);
			continue;
		}
		memcpy(name + length + 1, one->d_name, size + 1);
		pack_entry(fd, name + length + 1, length + 1 + size, 0, st->st_dev);
	}
	name[length] = '\0';
	if (errno)
		report_errno(below(), errno);
	closedir(directory);
}

static void pack_link(int parent, const char *entry, const struct stat *st)
{
	char link[PATH_MAX];
	ssize_t size = readlinkat(parent, entry, link, sizeof link - 1);

	if (size < 0) {
		report_errno(below(), errno);
		return;
	}
	link[size] = '\0';
	put_member('2', st, link, 0);
}

/* Packs `entry` of the directory `parent`. `name` has its name in the archive, of `length` bytes. */
static void pack_entry(int parent, const char *entry, size_t length, int follow, dev_t device)
{
	struct stat st;
	const char *earlier;

	if (fstatat(parent, entry, &st, follow ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
		/* ENOENT: it was removed meanwhile. */
		if (errno != ENOENT || length == top_length)
			report_errno(below(), errno);
		return;
	}
	earlier = !S_ISDIR(st.st_mode) && st.st_nlink > 1 ? inode_table_find(st.st_dev, st.st_ino) : NULL;
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
		report(below(), "this is a socket, which cannot be copied");
	/* Sockets in a tree are skipped: they are of no use without their program, and tar cannot hold them. */
}

int pack_program(char **words)
{
	top_length = strlen(words[1]);
	if (top_length + 2 > NAME_ROOM) {
		report_errno("", ENAMETOOLONG);
		return report_status();
	}
	name = room_for(NAME_ROOM);
	buffer = room_for(PIECE);
	memcpy(name, words[1], top_length + 1);
	pack_entry(AT_FDCWD, words[0], top_length, words[2] ? 1 : 0, 0);
	tar_put_end();
	return report_status();
}
