/* Directories: making them, and reading them. */
#ifndef BALLONET_PATHS_H
#define BALLONET_PATHS_H

#include <dirent.h>

/* Makes the directory `path` and those above it. Returns errno. */
int make_directories(const char *path);
/* Makes the directories above `path`. Returns errno. */
int make_parents(const char *path);
/* The next entry other than "." and "..". NULL: at the end with errno 0, or after an error. */
struct dirent *next_entry(DIR *directory);

#endif
