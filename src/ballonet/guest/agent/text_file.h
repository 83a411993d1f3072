/* Small text files, as those of /proc and /sys. */
#ifndef BALLONET_TEXT_FILE_H
#define BALLONET_TEXT_FILE_H

#include <stddef.h>

/* Reads at most `size` - 1 bytes and ends them with NUL: an empty text if the file cannot be read. */
void read_text(const char *path, char *to, size_t size);
/* Writes to a file that exists, in one write. Returns errno. */
int write_text(const char *path, const char *text);

#endif
