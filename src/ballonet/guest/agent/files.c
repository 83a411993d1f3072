/* The small file programs, and what all of them share. docs/agent.md describes each.
 *
 * They exist so that the files of a guest can be reached whatever its image has in it. A program is the child of an
 * EXEC with the flag EXEC_BUILTIN: it has the process's pipes, user and directory, and its words are arguments. */
#define _GNU_SOURCE
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_REPORTS = 8, SHOWN_BYTES = 256, MAX_LINKS = 40, OPEN_DIRECTORIES = 16 * 1024 };

static unsigned reports;
static char *gathered;
static size_t gathered_size;

void report(const char *top, const char *below, const char *what)
{
	size_t size = strlen(top);
	bool apart = *below && *below != '/' && size > 0 && top[size - 1] != '/';

	if (++reports <= MAX_REPORTS)
		dprintf(STDERR_FILENO, "%.*s%s%.*s: %s\n", SHOWN_BYTES, top, apart ? "/" : "", SHOWN_BYTES, below,
			what);
}

void report_errno(const char *top, const char *below, int error)
{
	report(top, below, strerror(error));
}

int reported(void)
{
	if (reports > MAX_REPORTS)
		dprintf(STDERR_FILENO, "and %u more\n", reports - MAX_REPORTS);
	return reports ? 1 : 0;
}

static _Noreturn void fail(const char *what, int error)
{
	report_errno(what, "", error);
	_exit(1);
}

void *room_for(size_t bytes)
{
	void *room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		fail("memory", errno);
	return room;
}

bool write_full(int fd, const void *bytes, size_t size)
{
	const char *at = bytes;

	while (size > 0) {
		ssize_t put = write(fd, at, size);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		at += put;
		size -= (size_t)put;
	}
	return true;
}

ssize_t read_full(int fd, void *to, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t got = read(fd, (char *)to + done, size - done);

		if (got < 0 && errno == EINTR)
			continue;
		/* A file of /proc that has nothing more to say now, as it was opened not to wait. */
		if (got == 0 || (got < 0 && errno == EAGAIN))
			break;
		if (got < 0)
			return done > 0 ? (ssize_t)done : -1;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

void out_flush(void)
{
	if (gathered_size > 0 && !write_full(STDOUT_FILENO, gathered, gathered_size))
		fail("standard output", errno);
	gathered_size = 0;
}

void out_bytes(const void *bytes, size_t size)
{
	if (!gathered)
		gathered = room_for(PIECE);
	if (size > PIECE - gathered_size)
		out_flush();
	if (size >= PIECE) {
		if (!write_full(STDOUT_FILENO, bytes, size))
			fail("standard output", errno);
		return;
	}
	memcpy(gathered + gathered_size, bytes, size);
	gathered_size += size;
}

void out_zeros(uint64_t size)
{
	static const char zeros[TAR_BLOCK];

	for (; size > 0; size -= size < sizeof zeros ? size : sizeof zeros)
		out_bytes(zeros, size < sizeof zeros ? (size_t)size : sizeof zeros);
}

/* One answer: type and mode in octal, size, time of the last change, and a name; ended by NUL. */
static void put_record(const struct stat *st, const char *name)
{
	char numbers[96];
	int size = snprintf(numbers, sizeof numbers, "%o %lld %lld ", (unsigned)st->st_mode, (long long)st->st_size,
			    (long long)st->st_mtim.tv_sec);

	out_bytes(numbers, (size_t)size);
	out_bytes(name, strlen(name) + 1);
}

/* stat PATH: what it is; a link is told as a link. */
static int stat_program(char **words)
{
	struct stat st;

	if (lstat(words[0], &st) < 0)
		report_errno(words[0], "", errno);
	else
		put_record(&st, "");
	return reported();
}

/* follow PATH: what it leads to. */
static int follow_program(char **words)
{
	struct stat st;

	if (stat(words[0], &st) < 0)
		report_errno(words[0], "", errno);
	else
		put_record(&st, "");
	return reported();
}

/* list PATH: a record for each entry of a directory. */
static int list_program(char **words)
{
	DIR *directory = opendir(words[0]);
	struct dirent *entry;
	struct stat st;

	if (!directory)
		fail(words[0], errno);
	while (errno = 0, (entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		/* One that is gone meanwhile is not there. */
		if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			put_record(&st, entry->d_name);
		else if (errno != ENOENT)
			report_errno(words[0], entry->d_name, errno);
	}
	if (errno)
		report_errno(words[0], "", errno);
	return reported();
}

/* Where a path leads: its last part may be a link, or a link to nothing, or not be there. Returns errno. */
static int resolve(const char *path, char found[PATH_MAX])
{
	char link[PATH_MAX];

	if (snprintf(found, PATH_MAX, "%s", path) >= PATH_MAX)
		return ENAMETOOLONG;
	for (int i = 0; i < MAX_LINKS; i++) {
		char *slash = strrchr(found, '/');
		size_t above;
		ssize_t size = readlink(found, link, sizeof link);

		if (size < 0)
			return errno == EINVAL || errno == ENOENT ? 0 : errno;
		above = link[0] == '/' || !slash ? 0 : (size_t)(slash - found) + 1;
		if (above + (size_t)size >= PATH_MAX)
			return ENAMETOOLONG;
		memcpy(found + above, link, (size_t)size);
		found[above + (size_t)size] = '\0';
	}
	return ELOOP;
}

/* resolve PATH: where it leads, ended by NUL. */
static int resolve_program(char **words)
{
	char found[PATH_MAX];
	int error = resolve(words[0], found);

	if (error)
		fail(words[0], error);
	out_bytes(found, strlen(found) + 1);
	return 0;
}

/* Copies standard input to `fd`, or `fd` to standard output. Returns errno. */
static int copy_all(int from, int to)
{
	char *buffer = room_for(PIECE);

	for (;;) {
		/* Whole pieces: a file of /proc or /sys takes a value in one write. */
		ssize_t got = to == STDOUT_FILENO ? read(from, buffer, PIECE) : read_full(from, buffer, PIECE);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno;
		if (got == 0)
			return 0;
		if (!write_full(to, buffer, (size_t)got))
			return errno;
	}
}

/* read PATH: its content. */
static int read_program(char **words)
{
	int fd = open(words[0], O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int error = fd < 0 ? errno : copy_all(fd, STDOUT_FILENO);

	if (error)
		fail(words[0], error);
	return 0;
}

/* Makes the directories above `path`. Returns errno. */
static int make_above(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int error;

		*slash = '\0';
		error = mkdir(path, 0777) < 0 ? errno : 0;
		*slash = '/';
		if (error && error != EEXIST)
			return error;
	}
	return 0;
}

static int write_in_place(const char *path, int flags)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | flags);
	int error = fd < 0 ? errno : copy_all(STDIN_FILENO, fd);

	if (fd >= 0 && close(fd) < 0 && !error)
		error = errno;
	if (error)
		fail(path, error);
	return 0;
}

/* A file that is not seen until it is whole: one without a name where the file system has those (nothing is left of it
 * when we are killed), else one with the name `beside`. Returns it, or -1. */
static int open_beside(const char *directory, char beside[PATH_MAX])
{
	int fd = open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	*beside = '\0';
	if (fd >= 0)
		return fd;
	if (snprintf(beside, PATH_MAX, "%s/.ballonet.XXXXXX", directory) >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return mkstemp(beside);
}

/* Gives the file `fd` the name `beside`. Returns errno. */
static int name_beside(int fd, const char *directory, char beside[PATH_MAX])
{
	char self[64];

	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	for (unsigned i = 0; i < 100; i++) {
		if (snprintf(beside, PATH_MAX, "%s/.ballonet.%d.%u", directory, (int)getpid(), i) >= PATH_MAX)
			return ENAMETOOLONG;
		if (linkat(fd, "", AT_FDCWD, beside, AT_EMPTY_PATH) == 0 ||
		    linkat(AT_FDCWD, self, AT_FDCWD, beside, AT_SYMLINK_FOLLOW) == 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	*beside = '\0';
	return errno;
}

/* write PATH MODE [parents]: replaces its content by standard input, whole or not at all. What is no regular file,
 * and a file of /proc or /sys, is written to as it is. */
static int write_program(char **words)
{
	char path[PATH_MAX], directory[PATH_MAX], beside[PATH_MAX];
	struct stat st;
	int error = resolve(words[0], path);
	bool there;
	char *slash;
	int fd;

	if (!error && words[2])
		error = make_above(path);
	if (error)
		fail(words[0], error);
	there = stat(path, &st) == 0;
	if (there && S_ISDIR(st.st_mode))
		fail(words[0], EISDIR);
	if (there && !S_ISREG(st.st_mode))
		return write_in_place(path, 0);
	snprintf(directory, sizeof directory, "%s", path);
	slash = strrchr(directory, '/');
	if (!slash)
		fail(words[0], EINVAL);
	slash[slash == directory] = '\0';
	fd = open_beside(directory, beside);
	/* /proc says ENOENT. */
	if (fd < 0 && there && (errno == EACCES || errno == EPERM || errno == ENOENT))
		return write_in_place(path, O_TRUNC);
	if (fd < 0)
		fail(directory, errno);
	error = copy_all(STDIN_FILENO, fd);
	if (!error && fchmod(fd, (mode_t)strtoul(words[1], NULL, 8) & 07777) < 0)
		error = errno;
	if (!error && !*beside)
		error = name_beside(fd, directory, beside);
	if (close(fd) < 0 && !error)
		error = errno;
	if (!error && rename(beside, path) < 0)
		error = errno;
	if (error && *beside)
		unlink(beside);
	if (error)
		fail(words[0], error);
	return 0;
}

/* mkdir PATH [parents] */
static int mkdir_program(char **words)
{
	struct stat st;
	int error = words[1] ? make_above(words[0]) : 0;

	if (!error && mkdir(words[0], 0777) < 0)
		error = errno;
	if (error == EEXIST && words[1] && stat(words[0], &st) == 0 && S_ISDIR(st.st_mode))
		error = 0;
	if (error)
		fail(words[0], error);
	return 0;
}

/* Removes all in the directory `fd`, which is closed. `length`: of its own name below `top`, in `name`. */
static void remove_entries(const char *top, char *name, size_t length, int fd)
{
	DIR *directory = fdopendir(fd);
	struct dirent *entry;
	unsigned before;
	bool found;

	if (!directory) {
		report_errno(top, name, errno);
		close(fd);
		return;
	}
	/* Some file systems pass over entries while others are removed: until there are none. */
	do {
		found = false;
		before = reports;
		rewinddir(directory);
		while ((entry = readdir(directory))) {
			size_t size = strlen(entry->d_name);
			int below;

			if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
				continue;
			found = true;
			if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
				continue;
			if (length + size + 2 > NAME_ROOM) {
				report_errno(top, name, ENAMETOOLONG);
				continue;
			}
			snprintf(name + length, size + 2, "/%s", entry->d_name);
			/* EPERM is what POSIX has for a directory. */
			if (errno == EISDIR || errno == EPERM) {
				int error = errno;

				below = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
				if (below >= 0)
					remove_entries(top, name, length + size + 1, below);
				else if (errno == ENOTDIR)
					errno = error;
				if (below >= 0 && unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0)
					errno = ENOENT;
			}
			if (errno != ENOENT && reports == before)
				report_errno(top, name, errno);
			name[length] = '\0';
		}
	} while (found && reports == before);
	closedir(directory);
}

/* remove PATH [recursive] */
static int remove_program(char **words)
{
	struct stat st, root;
	int fd;

	if (lstat(words[0], &st) < 0)
		fail(words[0], errno);
	if (stat("/", &root) == 0 && st.st_dev == root.st_dev && st.st_ino == root.st_ino) {
		report(words[0], "", "it is the root directory, which is not removed");
		return reported();
	}
	if (!S_ISDIR(st.st_mode)) {
		if (unlink(words[0]) < 0)
			fail(words[0], errno);
		return 0;
	}
	fd = words[1] ? open(words[0], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (words[1] && fd < 0)
		fail(words[0], errno);
	if (fd >= 0)
		remove_entries(words[0], room_for(NAME_ROOM), 0, fd);
	if (!reports && rmdir(words[0]) < 0)
		report_errno(words[0], "", errno);
	return reported();
}

static const struct {
	const char *name;
	int least, most;
	int (*run)(char **words);
} programs[] = {
	{"stat", 1, 1, stat_program},
	{"follow", 1, 1, follow_program},
	{"list", 1, 1, list_program},
	{"resolve", 1, 1, resolve_program},
	{"read", 1, 1, read_program},
	{"write", 2, 3, write_program},
	{"mkdir", 1, 2, mkdir_program},
	{"remove", 1, 2, remove_program},
	{"pack", 2, 3, pack_program},
	{"unpack", 1, 2, unpack_program},
};

/* A tree takes a descriptor for each of its levels. */
static void allow_depth(void)
{
	struct rlimit files = {OPEN_DIRECTORIES, OPEN_DIRECTORIES};

	if (setrlimit(RLIMIT_NOFILE, &files) == 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

/* Runs in the child of an EXEC, as its user: `words` are the program's name and its arguments. */
_Noreturn void file_program(char **words)
{
	int count = 0, status;

	while (words[count + 1])
		count++;
	prctl(PR_SET_NAME, "ballonet-files");
	umask(022);
	allow_depth();
	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
		if (strcmp(words[0], programs[i].name) != 0)
			continue;
		if (count < programs[i].least || count > programs[i].most)
			break;
		status = programs[i].run(words + 1);
		out_flush();
		_exit(status);
	}
	report(words[0], "", "no such file program of the agent, or other arguments than it takes");
	_exit(127);
}
