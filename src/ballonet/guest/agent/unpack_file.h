/* Regular files of a tar stream. */
#ifndef BALLONET_UNPACK_FILE_H
#define BALLONET_UNPACK_FILE_H

#include "tar_reader.h"

/* Writes the file `part` of the directory `above`. Takes all of its content from the stream, also after an error. */
void unpack_file(const struct tar_entry *entry, int above, const char *part, bool owners);
/* Removes the file that is being written, if there is one. */
void unpack_file_abandon(void);
/* Skips the content of a member. */
void skip_content(const struct tar_entry *entry);

#endif
