/* An EXEC in several frames. */
#ifndef BALLONET_EXEC_PARTS_H
#define BALLONET_EXEC_PARTS_H

#include <stdint.h>

void exec_parts_add(uint32_t stream, const uint8_t *bytes, uint32_t size);
/* Adds the last frame of an EXEC, and returns the complete payload. NULL: there was no memory for it. */
uint8_t *exec_parts_finish(uint32_t stream, uint8_t *last, uint32_t *size);
void exec_parts_drop(void);

#endif
