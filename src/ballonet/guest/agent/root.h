/* PID 1 only: changing the root file system. */
#ifndef BALLONET_ROOT_H
#define BALLONET_ROOT_H

#include <stdbool.h>

/* Copies the root, without what is mounted in it, to the directory `to`. Returns errno. */
int root_copy(const char *to);
/* Makes the directory `path` the root, moves the kernel's file systems into it, and empties the former root. With
 * `keep_tmp`, /tmp is moved, too; otherwise it becomes a directory of the new root. Returns errno; `failed` gets the
 * path of the directory that could not be moved, if it was that. */
int root_switch(const char *path, bool keep_tmp, const char **failed);

#endif
