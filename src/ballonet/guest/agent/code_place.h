/* Where a code session is in the guest's files: a directory of its own with its lock, its socket and its kernel. */
#ifndef BALLONET_CODE_PLACE_H
#define BALLONET_CODE_PLACE_H

#include <sys/un.h>

enum { CODE_PATH_BYTES = 96 }; /* a socket's path has at most 107 bytes */

/* The path of `file` in the session NAME of the current user, below PREFIX-UID. Returns errno. */
int code_path(const char *prefix, const char *name, const char *file, char path[CODE_PATH_BYTES]);
/* Makes the session's directory, and locks it for as long as the returned descriptor is open. -1 with errno: EBUSY if
 * the session exists, EPERM if the directory belongs to another user. */
int code_take_place(const char *prefix, const char *name);
/* Removes the session's files, and unlocks it. */
void code_leave_place(const char *prefix, const char *name, int lock);
struct sockaddr_un code_address(const char *path);

#endif
