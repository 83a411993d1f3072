/* A file that appears under its name when it is complete, and replaces what had the name before. */
#ifndef BALLONET_NEW_FILE_H
#define BALLONET_NEW_FILE_H

#include <limits.h>

struct new_file {
	int directory, fd;
	char temporary[NAME_MAX + 1]; /* empty: it has no name yet */
};
/* Creates it in the directory `directory`, which stays open until the end. Returns errno. */
int new_file_create(struct new_file *file, int directory);
/* Closes it and gives it its name. Returns errno; nothing is left of it then. */
int new_file_commit(struct new_file *file, const char *name);
/* Closes and removes it. */
void new_file_discard(struct new_file *file);

#endif
