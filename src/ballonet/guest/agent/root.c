/* PID 1 only: making another file system the root of everything. */
#define _GNU_SOURCE
#include "root.h"
#include "paths.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* Directories of another file system, on which something is mounted, are made and left empty. */
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

/* Copies what is in `from`, which is closed, of the file system `device`. Returns errno. */
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
	while (!error && (entry = readdir(entries)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			error = copy_entry(from, to, entry->d_name, device);
	closedir(entries);
	return error;
}

/* Copies the root, without what is mounted in it, to the directory `to`. Returns errno. */
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

/* Deletes everything of one file system below `fd`, which is closed: the initramfs is memory. */
static void empty_directory(int fd, dev_t device)
{
	DIR *entries = fdopendir(fd);
	struct dirent *entry;

	if (!entries) {
		close(fd);
		return;
	}
	while ((entry = readdir(entries))) {
		const char *name = entry->d_name;
		struct stat status;
		int below;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0 || status.st_dev != device)
			continue;
		if (!S_ISDIR(status.st_mode)) {
			unlinkat(fd, name, 0);
			continue;
		}
		below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (below >= 0)
			empty_directory(below, device);
		/* One that something is mounted on stays. */
		unlinkat(fd, name, AT_REMOVEDIR);
	}
	closedir(entries);
}

/* Makes `root` the root of everything, with the kernel's file systems in it, and frees the one that we came from.
 * `keep_tmp`: with /tmp as it is, too; otherwise files there are to lie on the new root. Returns errno. */
int root_switch(const char *root, bool keep_tmp)
{
	static const char *const kept[] = {"/proc", "/sys", "/dev", "/run", "/tmp"};
	size_t count = sizeof kept / sizeof *kept - !keep_tmp;
	char to[PATH_MAX];
	struct stat status;
	int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (old < 0 || fstat(old, &status) < 0)
		return errno;
	if (!keep_tmp && umount2("/tmp", MNT_DETACH) < 0)
		return errno;
	for (size_t i = 0; i < count; i++) {
		int error;

		snprintf(to, sizeof to, "%s%s", root, kept[i]);
		error = make_directories(to);
		if (error)
			return error;
		if (mount(kept[i], to, NULL, MS_MOVE, NULL) < 0)
			return errno;
	}
	if (chdir(root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return errno;
	empty_directory(old, status.st_dev);
	if (!keep_tmp && mkdir("/tmp", 01777) == 0 && chmod("/tmp", 01777) < 0)
		return errno;
	return 0;
}
