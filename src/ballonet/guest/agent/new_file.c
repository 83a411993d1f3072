/* A file that appears under its name when it is complete.
 *
 * Until then it has no name (O_TMPFILE), so that nothing is left of it if the program is killed. Where the file system
 * has no such files, it has a temporary name. */
#define _GNU_SOURCE
#include "new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum { MAX_TRIES = 100 };

static void next_temporary(struct new_file *file)
{
	static unsigned count;

	snprintf(file->temporary, sizeof file->temporary, ".ballonet.%d.%u", (int)getpid(), count++);
}

int new_file_create(struct new_file *file, int directory)
{
	*file = (struct new_file){.directory = directory};
	file->fd = openat(directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	for (int i = 0; file->fd < 0 && i < MAX_TRIES; i++) {
		next_temporary(file);
		file->fd = openat(directory, file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
				  0600);
		if (errno != EEXIST)
			break;
	}
	return file->fd < 0 ? errno : 0;
}

/* False, with EEXIST: there is a file of that name. */
static bool link_file(const struct new_file *file, const char *name)
{
	char self[64];

	snprintf(self, sizeof self, "/proc/self/fd/%d", file->fd);
	return linkat(file->fd, "", file->directory, name, AT_EMPTY_PATH) == 0 ||
	       (errno != EEXIST && linkat(AT_FDCWD, self, file->directory, name, AT_SYMLINK_FOLLOW) == 0);
}

/* A link does not replace a file, but renaming does. Returns errno; 0 with `temporary` empty: it has its name. */
static int give_name(struct new_file *file, const char *name)
{
	if (link_file(file, name))
		return 0;
	for (int i = 0; errno == EEXIST && i < MAX_TRIES; i++) {
		next_temporary(file);
		if (link_file(file, file->temporary))
			return 0;
	}
	*file->temporary = '\0';
	return errno;
}

int new_file_commit(struct new_file *file, const char *name)
{
	int error = *file->temporary ? 0 : give_name(file, name);

	if (close(file->fd) < 0 && !error)
		error = errno;
	file->fd = -1;
	if (!*file->temporary)
		return error;
	if (!error && renameat(file->directory, file->temporary, file->directory, name) < 0)
		error = errno;
	if (error)
		new_file_discard(file);
	return error;
}

void new_file_discard(struct new_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (*file->temporary)
		unlinkat(file->directory, file->temporary, 0);
}
