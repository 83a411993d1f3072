/* The state of a process that the host has started. */
#ifndef BALLONET_PROCESS_STATE_H
#define BALLONET_PROCESS_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process {
	uint32_t stream; /* 0: the slot is free */
	pid_t pid;       /* the direct child, and its process group and session; 0 once reaped */
	int in;          /* the agent's ends of its streams, -1 when closed */
	int out[2];
	/* The process's side of its terminal. It is kept open, because a program that closes its descriptors before it
	 * ends would otherwise look like the end of output, and closing the other side would hang up on it. */
	int terminal;
	int fail; /* a pipe: the child's report if exec failed; closed by a successful exec */
	bool tty, has_stdin, stdin_eof, started, announced, ended;
	int status;       /* of waitpid, once ended */
	uint32_t credit;  /* output bytes that may still be sent */
	uint32_t left[2]; /* once ended: bytes in each pipe that the process wrote */
	uint8_t *ring;    /* standard input that the process has not read, WINDOW bytes */
	uint32_t ring_head, ring_used;
	uint32_t room; /* stdin bytes that the host may still send */
	uint32_t owed; /* stdin bytes that were read but not granted again yet */
	uint32_t family; /* see family.h; 0 without a cgroup */
};

#endif
