/* PID 1 only: changing the root file system. */
#define _GNU_SOURCE
#include "root.h"
#include "base.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* musl's headers may predate it; the number is the same on every architecture. */
#ifndef SYS_openat2
#define SYS_openat2 437
#endif

#define RESOLVE_IN_ROOT_FLAG 0x10 /* linux/openat2.h */

static int copy_file(int from, int to, const char *name, const struct stat *status)
{
	int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), out = -1, error = 0;
	ssize_t got = 1;

	if (in >= 0)
		out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	while (out >= 0 && got > 0)
		got = sendfile(out, in, NULL, 1 << 20);
	if (out < 0 || got < 0 || fchmod(out, status->st_mode & 07777) < 0)
		error = errno;
	if (out >= 0)
		close(out);
	if (in >= 0)
		close(in);
	return error;
}

static int copy_link(int from, int to, const char *name)
{
	char target[PATH_MAX];
	ssize_t size = readlinkat(from, name, target, sizeof target - 1);

	if (size < 0)
		return errno;
	target[size] = '\0';
	return symlinkat(target, to, name) < 0 ? errno : 0;
}

static int copy_directory(int from, int to, dev_t device);

/* A directory on which something is mounted is made, and stays empty. */
static int copy_entry(int from, int to, const char *name, dev_t device)
{
	struct stat status;
	int below, made, error;

	if (fstatat(from, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno;
	if (S_ISREG(status.st_mode))
		return copy_file(from, to, name, &status);
	if (S_ISLNK(status.st_mode))
		return copy_link(from, to, name);
	if (!S_ISDIR(status.st_mode))
		return 0; /* a device node: /dev has them */
	if (mkdirat(to, name, 0755) < 0 && errno != EEXIST)
		return errno;
	if (status.st_dev != device)
		return 0;
	below = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	made = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (below < 0 || made < 0 || fchmod(made, status.st_mode & 07777) < 0) {
		error = errno;
		if (below >= 0)
			close(below);
	} else {
		error = copy_directory(below, made, device);
	}
	if (made >= 0)
		close(made);
	return error;
}

/* Copies what the directory `from` has of the file system `device`, and closes it. Returns errno. */
static int copy_directory(int from, int to, dev_t device)
{
	DIR *entries = fdopendir(from);
	struct dirent *entry;
	int error = 0;

	if (!entries) {
		error = errno;
		close(from);
		return error;
	}
	while (!error && (entry = next_entry(entries)))
		error = copy_entry(from, to, entry->d_name, device);
	closedir(entries);
	return error;
}

int root_copy(const char *to)
{
	int from = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), into, error;
	struct stat status;

	if (from < 0 || fstat(from, &status) < 0)
		return errno;
	into = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (into < 0)
		return errno;
	error = copy_directory(from, into, status.st_dev);
	close(into);
	return error;
}

/* Deletes everything of one file system in the directory `fd`, and closes it. The initramfs takes memory. */
static void empty_directory(int fd, dev_t device)
{
	DIR *entries = fdopendir(fd);
	struct dirent *entry;

	if (!entries) {
		close(fd);
		return;
	}
	while ((entry = next_entry(entries))) {
		const char *name = entry->d_name;
		struct stat status;
		int below;

		if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0 || status.st_dev != device)
			continue;
		if (!S_ISDIR(status.st_mode)) {
			unlinkat(fd, name, 0);
			continue;
		}
		below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below >= 0)
			empty_directory(below, device);
		/* Fails for a directory on which something is mounted. */
		unlinkat(fd, name, AT_REMOVEDIR);
	}
	closedir(entries);
}

/* Opens the directory `name` of the new root, for something to be mounted there. A link is followed within that root.
 * Anything else that is not a directory is replaced by one: in an overlay, the image keeps its own. */
static int open_mount_point(int root, const char *name)
{
	/* struct open_how of linux/openat2.h */
	const struct {
		uint64_t flags, mode, resolve;
	} how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT_FLAG};

	for (bool made = false;; made = true) {
		int fd = (int)syscall(SYS_openat2, root, name, &how, sizeof how);

		/* Linux before 5.6. */
		if (fd < 0 && errno == ENOSYS)
			fd = openat(root, name, (int)how.flags);
		if (fd >= 0 || made || (errno != ENOENT && errno != ENOTDIR && errno != ELOOP))
			return fd;
		if (unlinkat(root, name, 0) == 0)
			complain("/%s of the image is not a directory: replaced it with one", name);
		if (mkdirat(root, name, 0755) < 0)
			return -1;
	}
}

static int move_into(const char *path, int root)
{
	char to[32];
	int fd = open_mount_point(root, path + 1), error;

	if (fd < 0)
		return errno;
	snprintf(to, sizeof to, "/proc/self/fd/%d", fd);
	error = mount(path, to, NULL, MS_MOVE, NULL) < 0 ? errno : 0;
	close(fd);
	return error;
}

int root_switch(const char *path, bool keep_tmp, const char **failed)
{
	/* /proc last, because the others are moved through it. */
	static const char *const kept[] = {"/tmp", "/sys", "/dev", "/run", "/proc"};
	int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
	struct stat status;

	if (root < 0 || old < 0 || fstat(old, &status) < 0)
		return errno;
	if (!keep_tmp && umount2("/tmp", MNT_DETACH) < 0)
		return errno;
	for (size_t i = keep_tmp ? 0 : 1; !error && i < sizeof kept / sizeof *kept; i++) {
		error = move_into(kept[i], root);
		*failed = error ? kept[i] : NULL;
	}
	close(root);
	if (error)
		return error;
	if (chdir(path) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return errno;
	empty_directory(old, status.st_dev);
	if (!keep_tmp && mkdir("/tmp", 01777) == 0 && chmod("/tmp", 01777) < 0)
		return errno;
	return 0;
}
