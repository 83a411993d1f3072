/* Reading and writing in a file program, in pieces and buffers of fixed size. */
#ifndef BALLONET_FILE_IO_H
#define BALLONET_FILE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { PIECE = 256 * 1024 }; /* what is read or written at once */

/* Memory for as long as the program runs. */
void *room_for(size_t bytes);
/* Reads until `size` bytes, the end or an error. Returns what was read, or -1 if nothing was before the error. */
ssize_t read_full(int fd, void *to, size_t size);
bool write_full(int fd, const void *bytes, size_t size);
/* Copies everything, to or from a standard stream. Returns errno. */
int copy_all(int from, int to);

/* Standard output, buffered. The program ends if nobody reads it. */
void out_bytes(const void *bytes, size_t size);
void out_zeros(uint64_t size);
void out_flush(void);

#endif
