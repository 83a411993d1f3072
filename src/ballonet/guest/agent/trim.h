/* Returning the guest's caches to the host on request, in a child process. */
#ifndef BALLONET_TRIM_H
#define BALLONET_TRIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

void trim_init(void);
/* The feature bits that trimming needs. */
uint32_t trim_features(void);
/* True until trim_ended() has reported the end. */
bool trim_running(void);
void trim_start(uint64_t bytes, uint32_t flags);
/* True: the process that has ended was the one that trims. */
bool trim_reaped(pid_t pid, int status);
/* True once, when a trim has ended; sets its errno. */
bool trim_ended(uint32_t *error);
/* Since boot: trims started, and the caches that they reclaimed so far (KiB). */
uint32_t trim_count(void);
uint64_t trim_reclaimed_kib(void);
/* Drops what was requested by a host that is gone. */
void trim_forget(void);

#endif
