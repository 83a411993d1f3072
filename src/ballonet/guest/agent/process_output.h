/* Output of a process. */
#ifndef BALLONET_PROCESS_OUTPUT_H
#define BALLONET_PROCESS_OUTPUT_H

#include "process_state.h"

#include <stdbool.h>

/* Sends one frame of output 0 or 1, as much as credit and room allow. False: nothing can be sent now. */
bool output_send(struct process *p, int which);
/* The process has ended: what is in its pipes now is the rest of its output. */
void output_end(struct process *p);

#endif
