/* Owner, mode and time of what is unpacked. */
#ifndef BALLONET_UNPACK_ATTRIBUTES_H
#define BALLONET_UNPACK_ATTRIBUTES_H

#include "tar.h"

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

/* Sets the member's owner if `owners` is true. Returns the mode to set afterwards, because a change of owner clears
 * set-user-id bits. They are kept only for the owner that they were meant for. */
mode_t set_owner(int fd, const char *part, const struct tar_member *member, bool owners);
void set_time(int fd, struct timespec changed);
struct timespec time_of(const struct tar_member *member);

#endif
