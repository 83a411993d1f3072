/* Standard input of a process. */
#ifndef BALLONET_PROCESS_INPUT_H
#define BALLONET_PROCESS_INPUT_H

#include "process_state.h"

#include <stdint.h>

/* Takes bytes from the host, at most p->room of them: the ring has space for these. */
void input_add(struct process *p, const uint8_t *bytes, uint32_t size);
void input_end(struct process *p);
/* Passes on what the process can take now. */
void input_push(struct process *p);

#endif
