/* An EXEC that is longer than a frame: its parts, until the last one comes. One at a time.
 *
 * A frame for another stream means that the host has given the former one up. */
#define _GNU_SOURCE
#include "assembly.h"
#include "end.h"
#include "wire.h"

#include <string.h>
#include <sys/mman.h>

static uint32_t stream_of; /* 0: nothing is being assembled */
static uint8_t *whole;     /* NULL meanwhile: there is no memory for it */
static uint32_t used;

void assembly_drop(void)
{
	if (whole)
		munmap(whole, MAX_EXEC);
	whole = NULL;
	stream_of = used = 0;
}

void assembly_add(uint32_t stream, const uint8_t *bytes, uint32_t size)
{
	if (stream != stream_of) {
		assembly_drop();
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

uint8_t *assembly_finish(uint32_t stream, uint8_t *last, uint32_t *size)
{
	if (stream != stream_of) {
		assembly_drop();
		return last;
	}
	if (*size > MAX_EXEC - used)
		violation("EXEC is too long", T_EXEC, stream);
	if (whole && *size > 0)
		memcpy(whole + used, last, *size);
	*size += used;
	return whole;
}
