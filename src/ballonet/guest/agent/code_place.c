/* Where a code session is: PREFIX-UID/NAME/, with mode 0700. */
#define _GNU_SOURCE
#include "code_place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 100 };

int code_path(const char *prefix, const char *name, const char *file, char path[CODE_PATH_BYTES])
{
	int length = snprintf(path, CODE_PATH_BYTES, "%s-%u%s%s%s%s", prefix, (unsigned)geteuid(), *name ? "/" : "", name,
			      *file ? "/" : "", file);

	if (strchr(name, '/') || *name == '.')
		return EINVAL;
	return length < CODE_PATH_BYTES ? 0 : ENAMETOOLONG;
}

/* A directory that others can write to would let them take the place of a session. */
static int make_private(const char *path)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return errno;
	if (lstat(path, &st) < 0)
		return errno;
	return S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) ? 0 : EPERM;
}

int code_take_place(const char *prefix, const char *name)
{
	char above[CODE_PATH_BYTES], directory[CODE_PATH_BYTES], lock[CODE_PATH_BYTES];
	int error = code_path(prefix, "", "", above);

	if (!error)
		error = code_path(prefix, name, "", directory);
	if (!error)
		error = code_path(prefix, name, "lock", lock);
	/* Again if the session that had the lock is just removing its files. */
	for (int tries = 0; !error && tries < TRIES; tries++) {
		struct stat held, there;
		int fd;

		error = make_private(above);
		if (!error)
			error = make_private(directory);
		if (error)
			break;
		fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0) {
			error = errno;
			break;
		}
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			error = errno == EWOULDBLOCK ? EBUSY : errno;
		else if (fstat(fd, &held) == 0 && stat(lock, &there) == 0 && held.st_ino == there.st_ino)
			return fd;
		close(fd);
	}
	errno = error ? error : EAGAIN;
	return -1;
}

void code_leave_place(const char *prefix, const char *name, int lock)
{
	static const char *const files[] = {"socket", "kernel", "lock"};
	char path[CODE_PATH_BYTES];

	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (code_path(prefix, name, files[i], path) == 0)
			unlink(path);
	if (code_path(prefix, name, "", path) == 0)
		rmdir(path);
	if (code_path(prefix, "", "", path) == 0)
		rmdir(path);
	close(lock);
}

struct sockaddr_un code_address(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	return address;
}
