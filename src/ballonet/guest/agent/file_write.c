/* File programs that write a file or make a directory. */
#define _GNU_SOURCE
#include "file_write.h"
#include "file_io.h"
#include "file_look.h"
#include "file_report.h"
#include "new_file.h"
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_in_place(const char *path, int flags)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | flags);
	int error = fd < 0 ? errno : copy_all(STDIN_FILENO, fd);

	if (fd >= 0 && close(fd) < 0 && !error)
		error = errno;
	if (error)
		fail_about(path, error);
	return 0;
}

int write_program(char **words)
{
	char path[PATH_MAX], directory[PATH_MAX], *slash;
	struct new_file file;
	struct stat st;
	int error = resolve_path(words[0], path), above;
	bool exists;

	if (!error && words[2])
		error = make_parents(path);
	if (error)
		fail(error);
	exists = stat(path, &st) == 0;
	if (exists && S_ISDIR(st.st_mode))
		fail(EISDIR);
	if (exists && !S_ISREG(st.st_mode))
		return write_in_place(path, 0);
	strcpy(directory, path);
	slash = strrchr(directory, '/');
	if (!slash)
		fail(EINVAL);
	slash[slash == directory] = '\0';
	above = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	error = above < 0 ? errno : new_file_create(&file, above);
	/* ENOENT is what /proc says. */
	if (exists && (error == EACCES || error == EPERM || error == ENOENT))
		return write_in_place(path, O_TRUNC);
	if (error)
		fail_about(directory, error);
	error = copy_all(STDIN_FILENO, file.fd);
	if (!error && fchmod(file.fd, (mode_t)strtoul(words[1], NULL, 8) & 07777) < 0)
		error = errno;
	if (error)
		new_file_discard(&file);
	else
		error = new_file_commit(&file, strrchr(path, '/') + 1);
	if (error)
		fail(error);
	return 0;
}

int mkdir_program(char **words)
{
	struct stat st;
	int error = words[1] ? make_parents(words[0]) : 0;

	if (!error && mkdir(words[0], 0777) < 0)
		error = errno;
	if (error == EEXIST && words[1] && stat(words[0], &st) == 0 && S_ISDIR(st.st_mode))
		error = 0;
	if (error)
		fail(error);
	return 0;
}
