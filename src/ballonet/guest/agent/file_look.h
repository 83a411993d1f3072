/* File programs that only read: what a path is, where it leads, and what is in it. */
#ifndef BALLONET_FILE_LOOK_H
#define BALLONET_FILE_LOOK_H

#include <limits.h>

/* stat PATH: a record of the path itself. */
int stat_program(char **words);
/* follow PATH: a record of the file that it leads to. */
int follow_program(char **words);
/* list PATH: a record of each entry of a directory. */
int list_program(char **words);
/* resolve PATH: the path that it leads to, ended by NUL. */
int resolve_program(char **words);
/* read PATH: its content. */
int read_program(char **words);

/* The path that `path` leads to if its last part is a link; what that names need not exist. Returns errno. */
int resolve_path(const char *path, char found[PATH_MAX]);

#endif
