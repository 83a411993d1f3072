/* The processes that the host has started: their table, signals and ends. */
#ifndef BALLONET_PROCESS_H
#define BALLONET_PROCESS_H

#include "process_state.h"

#include <poll.h>
#include <stdint.h>

enum { FDS_PER_PROCESS = 4 };
void processes_init(void);
struct process *process_find(uint32_t stream);
void process_exec(uint32_t stream, uint8_t *payload, uint32_t size);
/* Sends a signal to the process group; SIGKILL to everything that the process started. */
void process_signal(struct process *p, int number);
void process_resize(struct process *p, uint16_t rows, uint16_t columns);
/* Fills FDS_PER_PROCESS entries per slot. Returns their number. */
int processes_want(struct pollfd *want);
void processes_ready(const struct pollfd *ready);
/* Sends what is due, if there is room. */
void processes_settle(void);
void processes_reap(void);
/* Kills all of them, and orphans of earlier ones, and forgets them. */
void processes_kill_all(void);
/* Kills the processes of all streams but these (u32 each), and forgets them. */
void processes_keep(const uint8_t *streams, uint32_t count);
/* Answers EXEC with ERROR. */
void process_refuse(uint32_t stream, int error, const char *what);

#endif
