/* What is known of a process that the host has started. */
#ifndef BALLONET_PROCESS_STATE_H
#define BALLONET_PROCESS_STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process {
	uint32_t stream; /* 0: the slot is free */
	pid_t pid;       /* the direct child, and its process group and session; 0 once reaped */
	int in;          /* our ends, -1 when closed */
	int out[2];
	/* The process's side of its terminal. We hold it open, because a program that closes its descriptors before
	 * it ends would otherwise look like the end of output, and closing our side would hang up on it. */
	int terminal;
	int fail; /* the child's report that it could not exec; closes when it could */
	bool tty, has_stdin, stdin_eof, started, announced, ended;
	int status;       /* of waitpid, once ended */
	uint32_t credit;  /* output bytes that may still be sent */
	uint32_t left[2]; /* once ended: bytes of each pipe that still belong to the process */
	uint8_t *ring;    /* standard input not yet taken, WINDOW bytes */
	uint32_t ring_head, ring_used;
	uint32_t room; /* stdin bytes that the host may still send */
	uint32_t owed; /* stdin bytes taken but not yet granted again */
	uint32_t family; /* its cgroup, 0 if it has none */
};

#endif
