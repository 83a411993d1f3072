/* One member of a tar stream. */
#ifndef BALLONET_UNPACK_MEMBER_H
#define BALLONET_UNPACK_MEMBER_H

#include "tar_reader.h"

#include <stdbool.h>

/* Puts a member into its place, and takes its content from the stream. Errors are reported. */
void unpack_member(struct tar_entry *entry, bool owners);

#endif
