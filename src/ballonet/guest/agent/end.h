/* The end of the agent, in order or because the host broke the protocol. */
#ifndef BALLONET_END_H
#define BALLONET_END_H

#include <stdint.h>

/* How the agent ends when it is not PID 1. As PID 1 it powers the machine off instead. */
enum { END_OK = 0, END_USAGE = 2, END_VIOLATION = 3, END_FAILED = 4 };

/* What is to end before the agent does; set once, by main. */
void end_before(void (*undo)(void));
_Noreturn void agent_end(int status);
_Noreturn void violation(const char *why, uint16_t type, uint32_t stream);
_Noreturn void power_off(void);

#endif
