/* PID 1 only: the root, the mounts and the network of the machine (SETUP). */
#ifndef BALLONET_SETUP_H
#define BALLONET_SETUP_H

#include "wire.h"

#include <stdint.h>

/* Runs the steps of a SETUP payload. Returns 0, or errno; -1: the payload is malformed. `text` says which steps failed,
 * and may do so with 0: optional steps have failed. */
int setup_run(uint8_t *payload, uint32_t size, char text[MAX_ERROR_TEXT]);

#endif
