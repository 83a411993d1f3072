/* PID 1 only: the root, the mounts and the network of the machine (SETUP). */
#ifndef BALLONET_SETUP_H
#define BALLONET_SETUP_H

#include "wire.h"

#include <stdbool.h>
#include <stdint.h>

/* Runs the steps of a SETUP payload. Returns 0, or errno; -1: the payload is malformed. `text` says which steps failed,
 * and may do so with 0: optional steps have failed. `again`: of a machine that was set up, and restored with another
 * name; only the steps that name it are allowed. */
int setup_run(uint8_t *payload, uint32_t size, bool again, char text[MAX_ERROR_TEXT]);

#endif
