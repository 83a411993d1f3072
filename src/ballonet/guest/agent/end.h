/* The end of the agent. */
#ifndef BALLONET_END_H
#define BALLONET_END_H

#include <stdint.h>

/* Exit statuses. As PID 1, the agent powers the machine off instead. */
enum { END_OK = 0, END_USAGE = 2, END_VIOLATION = 3, END_FAILED = 4 };

/* Sets the function that is called before the agent ends. */
void end_before(void (*undo)(void));
_Noreturn void agent_end(int status);
/* Ends the agent because of a frame that breaks the protocol. */
_Noreturn void violation(const char *why, uint16_t type, uint32_t stream);
_Noreturn void power_off(void);

#endif
