/* The stream of a code session. */
#define _GNU_SOURCE
#include "code_stream.h"
#include "base.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static size_t unused(const struct code_stream *stream)
{
	return CODE_KEPT - (size_t)(stream->end - stream->sent);
}

size_t code_room(const struct code_stream *stream)
{
	size_t room = unused(stream);

	return room > CODE_HEAD + CODE_RESERVE ? room - CODE_HEAD - CODE_RESERVE : 0;
}

static void put(struct code_stream *stream, const char *bytes, size_t size)
{
	while (size > 0) {
		size_t at = (size_t)(stream->end % CODE_KEPT);
		size_t part = size < CODE_KEPT - at ? size : CODE_KEPT - at;

		memcpy(stream->kept + at, bytes, part);
		stream->end += part;
		bytes += part;
		size -= part;
	}
}

void code_put(struct code_stream *stream, char type, const void *payload, size_t size)
{
	uint8_t head[CODE_HEAD] = {(uint8_t)type};

	/* A client that takes nothing loses what it had not read, which it is told when it comes back. */
	if (unused(stream) < CODE_HEAD + size)
		stream->sent = stream->end;
	put_u32(head + 1, (uint32_t)size);
	put(stream, (char *)head, sizeof head);
	put(stream, payload, size);
}

bool code_send(struct code_stream *stream, int client)
{
	while (stream->sent < stream->end) {
		size_t at = (size_t)(stream->sent % CODE_KEPT);
		size_t part = (size_t)(stream->end - stream->sent);
		ssize_t done;

		if (part > CODE_KEPT - at)
			part = CODE_KEPT - at;
		done = send(client, stream->kept + at, part, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return errno == EAGAIN;
		stream->sent += (uint64_t)done;
	}
	return true;
}

bool code_seek(struct code_stream *stream, uint64_t offset)
{
	bool kept = offset <= stream->end && stream->end - offset <= CODE_KEPT;

	stream->sent = kept ? offset : stream->end;
	return kept || offset == (uint64_t)CODE_NOW;
}
