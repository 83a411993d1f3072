/* A process and everything that it started, as a unit that can be killed. */
#ifndef BALLONET_FAMILY_H
#define BALLONET_FAMILY_H

#include <stdint.h>
#include <sys/types.h>

void family_init(void);
/* Forks into a new cgroup, if there are cgroups. `family` gets its number, or 0. */
pid_t family_fork(uint32_t *family);
void family_leave(uint32_t family);
/* Kills all of them. `leader` is the process itself, and the leader of its session. */
void family_kill(pid_t leader, uint32_t family);
/* Kills all processes but the agent; if it is not PID 1, all its descendants. */
void family_kill_all(void);

#endif
