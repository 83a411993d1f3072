/* The file program that removes. */
#define _GNU_SOURCE
#include "file_remove.h"
#include "file_io.h"
#include "file_report.h"
#include "paths.h"
#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void remove_entries(char *name, size_t length, int fd);

/* Removes `entry` of the directory `fd`. `name` is the directory's path below the top, of `length` bytes. A failure is
 * reported unless another one was since there were `before` reports. */
static void remove_entry(char *name, size_t length, int fd, const char *entry, unsigned before)
{
	size_t size = strlen(entry);
	int error;

	if (unlinkat(fd, entry, 0) == 0 || errno == ENOENT)
		return;
	error = errno;
	if (length + size + 2 > NAME_ROOM) {
		report_errno(name, ENAMETOOLONG);
		return;
	}
	snprintf(name + length, size + 2, "/%s", entry);
	/* For a directory Linux says EISDIR, and POSIX EPERM. */
	if (error == EISDIR || error == EPERM) {
		int below = openat(fd, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (below >= 0) {
			remove_entries(name, length + size + 1, below);
			error = unlinkat(fd, entry, AT_REMOVEDIR) < 0 ? errno : 0;
		} else if (errno != ENOTDIR) {
			error = errno;
		}
	}
	if (error && error != ENOENT && report_count() == before)
		report_errno(name, error);
	name[length] = '\0';
}

/* Removes everything in the directory `fd`, and closes it. */
static void remove_entries(char *name, size_t length, int fd)
{
	DIR *directory = fdopendir(fd);
	unsigned before;
	bool found;

	if (!directory) {
		report_errno(name, errno);
		close(fd);
		return;
	}
	/* Some file systems skip entries while others are removed, so it is read until it is empty. */
	do {
		struct dirent *entry;

		found = false;
		before = report_count();
		rewinddir(directory);
		while ((entry = next_entry(directory))) {
			found = true;
			remove_entry(name, length, fd, entry->d_name, before);
		}
	} while (found && report_count() == before);
	closedir(directory);
}

int remove_program(char **words)
{
	struct stat st, root;
	int fd;

	if (lstat(words[0], &st) < 0)
		fail(errno);
	if (stat("/", &root) == 0 && st.st_dev == root.st_dev && st.st_ino == root.st_ino) {
		report("", "refusing to remove the root directory");
		return report_status();
	}
	if (!S_ISDIR(st.st_mode)) {
		if (unlink(words[0]) < 0)
			fail(errno);
		return 0;
	}
	fd = words[1] ? open(words[0], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	if (words[1] && fd < 0)
		fail(errno);
	if (fd >= 0)
		remove_entries(room_for(NAME_ROOM), 0, fd);
	if (!report_count() && rmdir(words[0]) < 0)
		report_errno("", errno);
	return report_status();
}
