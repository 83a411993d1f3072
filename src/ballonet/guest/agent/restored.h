/* PID 1 only: a machine that was saved and restored gets a clock and random numbers of its own (RESTORED). */
#ifndef BALLONET_RESTORED_H
#define BALLONET_RESTORED_H

#include <stdint.h>

/* Sets the wall clock to the nanoseconds since 1970, credits the random bytes to the kernel's generator, and has it
 * reseed. Returns 0, or errno of the first step that failed. */
int restored_renew(uint64_t wall_ns, const uint8_t *seed, uint32_t size);

#endif
