/* An EXEC that comes in several frames. */
#ifndef BALLONET_ASSEMBLY_H
#define BALLONET_ASSEMBLY_H

#include <stdint.h>

void assembly_add(uint32_t stream, const uint8_t *bytes, uint32_t size);
/* The whole payload that the last frame of an EXEC completes; NULL: there was no memory for it. */
uint8_t *assembly_finish(uint32_t stream, uint8_t *last, uint32_t *size);
void assembly_drop(void);

#endif
