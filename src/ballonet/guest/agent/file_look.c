/* File programs that only read. */
#define _GNU_SOURCE
#include "file_look.h"
#include "file_io.h"
#include "file_report.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINKS = 40 };

/* "MODE SIZE MTIME NAME", ended by NUL. */
static void put_record(const struct stat *st, const char *name)
{
	char numbers[96];
	int size = snprintf(numbers, sizeof numbers, "%o %lld %lld ", (unsigned)st->st_mode, (long long)st->st_size,
			    (long long)st->st_mtim.tv_sec);

	out_bytes(numbers, (size_t)size);
	out_bytes(name, strlen(name) + 1);
}

int stat_program(char **words)
{
	struct stat st;

	if (lstat(words[0], &st) < 0)
		fail(errno);
	put_record(&st, "");
	return 0;
}

int follow_program(char **words)
{
	struct stat st;

	if (stat(words[0], &st) < 0)
		fail(errno);
	put_record(&st, "");
	return 0;
}

int list_program(char **words)
{
	DIR *directory = opendir(words[0]);
	struct dirent *entry;
	struct stat st;

	if (!directory)
		fail(errno);
	while ((entry = next_entry(directory))) {
		/* ENOENT: it was removed meanwhile. */
		if (fstatat(dirfd(directory), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			put_record(&st, entry->d_name);
		else if (errno != ENOENT)
			report_errno(entry->d_name, errno);
	}
	if (errno)
		report_errno("", errno);
	return report_status();
}

int resolve_path(const char *path, char found[PATH_MAX])
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

int resolve_program(char **words)
{
	char found[PATH_MAX];
	int error = resolve_path(words[0], found);

	if (error)
		fail(error);
	out_bytes(found, strlen(found) + 1);
	return 0;
}

int read_program(char **words)
{
	int fd = open(words[0], O_RDONLY | O_CLOEXEC | O_NOCTTY);
	int error = fd < 0 ? errno : copy_all(fd, STDOUT_FILENO);

	if (error)
		fail(error);
	return 0;
}
