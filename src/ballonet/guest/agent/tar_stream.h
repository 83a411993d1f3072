/* The bytes of the tar stream on standard input. */
#ifndef BALLONET_TAR_STREAM_H
#define BALLONET_TAR_STREAM_H

#include <stddef.h>
#include <stdint.h>

/* `clean_up` is called when the program is aborted. */
void tar_stream_open(void (*clean_up)(void));
/* How many bytes have been read. */
uint64_t tar_stream_position(void);
/* The next bytes, at most `most`, as many as are there; valid until the next call. 0: the end. */
size_t tar_stream_take(uint8_t **from, uint64_t most);
/* Returns less than `size` at the end. */
size_t tar_stream_read(void *to, size_t size);
/* These abort the program if the stream ends before. `below` is the member that needs the bytes. */
void tar_stream_read_exactly(void *to, size_t size, const char *below);
void tar_stream_skip(uint64_t size, const char *below);
_Noreturn void tar_stream_ended(const char *below);
/* Reports an error and ends the program. */
_Noreturn void unpack_abort(const char *below, const char *what);

#endif
