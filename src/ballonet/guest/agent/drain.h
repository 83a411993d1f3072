/* Outputs of processes that have ended, which their background children still write to. */
#ifndef BALLONET_DRAIN_H
#define BALLONET_DRAIN_H

#include <poll.h>

void drain_init(void);
/* Takes the descriptor over. */
void drain_take(int fd);
void drain_want(struct pollfd *want);
int drain_timeout_ms(int other_ms);
void drain_ready(short revents);

#endif
