/* The guest's memory: statistics, pressure, and giving back what is not needed. */
#ifndef BALLONET_MEMORY_H
#define BALLONET_MEMORY_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void memory_init(void);
uint32_t memory_features(void);
size_t memory_stats(char *to, size_t room);
int memory_watch(uint32_t stall_us, uint32_t window_us);
void memory_want(struct pollfd *want);
void memory_ready(short revents);
bool memory_trimming(void);
void memory_trim(uint64_t bytes, uint32_t flags);
bool memory_reaped(pid_t pid, int status);
void memory_settle(void);
void memory_forget(void);

#endif
