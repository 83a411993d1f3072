/* PID 1 only: what the host wants the machine to be made of. */
#ifndef BALLONET_SETUP_H
#define BALLONET_SETUP_H

#include "wire.h"

#include <stdint.h>

int setup_run(uint8_t *payload, uint32_t size, char text[MAX_ERROR_TEXT]);

#endif
