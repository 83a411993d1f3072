/* Directories: making them, and reading them. */
#define _GNU_SOURCE
#include "paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int make_one(const char *path)
{
	return mkdir(path, 0755) < 0 && errno != EEXIST ? errno : 0;
}

int make_parents(const char *path)
{
	char part[PATH_MAX];

	if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
		return ENAMETOOLONG;
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int error;

		*slash = '\0';
		error = make_one(part);
		if (error)
			return error;
		*slash = '/';
	}
	return 0;
}

int make_directories(const char *path)
{
	int error = make_parents(path);

	return error ? error : make_one(path);
}

struct dirent *next_entry(DIR *directory)
{
	struct dirent *entry;

	do {
		errno = 0;
		entry = readdir(directory);
	} while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	return entry;
}
