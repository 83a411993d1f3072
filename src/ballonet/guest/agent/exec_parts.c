/* An EXEC that is longer than a frame: collects its parts until the last one arrives. One EXEC at a time.
 *
 * A part for another stream means that the host has abandoned the earlier EXEC. */
#define _GNU_SOURCE
#include "exec_parts.h"
#include "end.h"
#include "wire.h"

#include <string.h>
#include <sys/mman.h>

static uint32_t stream_of; /* 0: there are no parts */
static uint8_t *whole;     /* NULL although there are parts: no memory */
static uint32_t used;

void exec_parts_drop(void)
{
	if (whole)
		munmap(whole, MAX_EXEC);
	whole = NULL;
	stream_of = used = 0;
}

void exec_parts_add(uint32_t stream, const uint8_t *bytes, uint32_t size)
{
	if (stream != stream_of) {
		exec_parts_drop();
		stream_of = stream;
		whole = mmap(NULL, MAX_EXEC, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (whole == MAP_FAILED)
			whole = NULL;
	}
	if (size == 0 || size > MAX_EXEC - used)
		violation("EXEC_PART is empty, or EXEC too long with it", T_EXEC_PART, stream);
	if (whole)
		memcpy(whole + used, bytes, size);
	used += size;
}

uint8_t *exec_parts_finish(uint32_t stream, uint8_t *last, uint32_t *size)
{
	if (stream != stream_of) {
		exec_parts_drop();
		return last;
	}
	if (*size > MAX_EXEC - used)
		violation("EXEC is too long", T_EXEC, stream);
	if (whole && *size > 0)
		memcpy(whole + used, last, *size);
	*size += used;
	return whole;
}
