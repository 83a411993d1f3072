/* The process that runs a session's code: an interpreter with its pipes and a socket for requests and replies. */
#ifndef BALLONET_CODE_KERNEL_H
#define BALLONET_CODE_KERNEL_H

#include <stdbool.h>
#include <sys/types.h>

struct code_kernel {
	pid_t pid;
	int channel, output[2]; /* -1: closed */
	bool alive;
	int status; /* as waitpid gives it */
};

/* Starts `command`, which gets the socket as descriptor 3. Returns errno. */
int code_kernel_start(struct code_kernel *kernel, char **command);
/* SIGINT to the kernel and to what it runs in the foreground. */
void code_kernel_interrupt(const struct code_kernel *kernel);
/* Takes the status of children that have ended. */
void code_kernel_reap(struct code_kernel *kernel);
/* Kills the kernel and everything that it started, and closes its streams. */
void code_kernel_end(struct code_kernel *kernel);

#endif
