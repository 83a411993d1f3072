/* A process and everything that it started. */
#ifndef BALLONET_FAMILY_H
#define BALLONET_FAMILY_H

#include <stdint.h>
#include <sys/types.h>

void family_init(void);
/* Forks into a cgroup of the family's own where there are cgroups; `family` is its number, 0 without one. */
pid_t family_fork(uint32_t *family);
void family_leave(uint32_t family);
/* Kills them all. `leader` is the process itself, which leads its session, too. */
void family_kill(pid_t leader, uint32_t family);
/* Kills every process but the agent; where it is not PID 1, every descendant of it. */
void family_kill_all(void);

#endif
