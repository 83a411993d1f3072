/* The guest's memory: statistics and pressure. */
#ifndef BALLONET_MEMORY_H
#define BALLONET_MEMORY_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

void memory_init(void);
uint32_t memory_features(void);
/* Writes lines "name value\n". A value that the kernel does not provide has no line. Returns the number of bytes. */
size_t memory_stats(char *to, size_t room);
/* Sets the pressure trigger; a stall of 0 removes it. Returns errno. */
int memory_watch(uint32_t stall_us, uint32_t window_us);
void memory_want(struct pollfd *want);
void memory_ready(short revents);
/* Sends notices that are due, if there is room. */
void memory_settle(void);
/* Drops what was requested by a host that is gone. */
void memory_forget(void);

#endif
