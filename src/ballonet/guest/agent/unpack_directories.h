/* The directories that a tar stream is unpacked into. */
#ifndef BALLONET_UNPACK_DIRECTORIES_H
#define BALLONET_UNPACK_DIRECTORIES_H

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* Opens the directory that everything goes into. */
void directories_open(const char *path);
/* Brings a name of the archive into the form "a/b/c"; empty: the directory itself. False: it contains "..". */
bool clean_name(char *name);
/* Opens the directory that contains `name`, a clean name, and sets `last` to its last part. With `make`, directories
 * that do not exist are made. Returns -1 after an error, which has been reported. */
int directories_open_above(char *name, char **last, bool make);
/* Closes what directories_open_above returned. */
void directories_close(int directory);
/* False: it is a link from this stream that points outside of it. */
bool may_follow(int directory, const char *part);
/* Takes over the directory `fd`. It gets its mode and time when the stream leaves it. */
void directories_enter(int fd, const char *name, mode_t mode, struct timespec changed);
/* Leaves the directories that `name` is not inside of; NULL: all. */
void directories_leave(const char *name);

#endif
