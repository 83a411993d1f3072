/* Outputs of processes that have ended, to which their background children still write. */
#ifndef BALLONET_DRAIN_H
#define BALLONET_DRAIN_H

#include <poll.h>

void drain_init(void);
/* Takes ownership of the descriptor. */
void drain_take(int fd);
void drain_want(struct pollfd *want);
/* How long the loop may sleep if nothing else needs it for `other_ms` (-1: forever). */
int drain_timeout_ms(int other_ms);
void drain_ready(short revents);

#endif
