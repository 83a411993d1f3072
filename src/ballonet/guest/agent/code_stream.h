/* What a code session has sent to its clients: one stream of frames, of which the last part is kept. A client that was
 * disconnected, for example because the guest was paused, continues where it was. */
#ifndef BALLONET_CODE_STREAM_H
#define BALLONET_CODE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CODE_KEPT = 1 << 20 };	  /* bytes of the stream that are kept */
enum { CODE_HEAD = 5 };		  /* a frame: type, u32 length of the payload */
enum { CODE_RESERVE = 512 };	  /* room for the short frames that must not wait */
enum { CODE_NOW = -1 };

/* Types of frames in the stream. */
enum { CODE_STDOUT = 'O', CODE_STDERR = 'E', CODE_WORDS = 'M', CODE_BEGUN = 'B', CODE_DIED = 'D', CODE_STARTED = 'S' };

struct code_stream {
	char *kept;
	uint64_t sent; /* offset of the next byte for the client */
	uint64_t end;
};

/* How many bytes of payload a frame may have now. */
size_t code_room(const struct code_stream *stream);
void code_put(struct code_stream *stream, char type, const void *payload, size_t size);
/* Sends what the client can take. False: the client is gone. */
bool code_send(struct code_stream *stream, int client);
/* Continues at `offset`. False if that is no longer kept: then it continues with what is new. */
bool code_seek(struct code_stream *stream, uint64_t offset);

#endif
