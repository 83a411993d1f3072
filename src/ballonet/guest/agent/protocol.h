/* Handling of the frames from the host. */
#ifndef BALLONET_PROTOCOL_H
#define BALLONET_PROTOCOL_H

void protocol_dispatch(void);
/* Sends READY, the first frame of every connection. */
void protocol_greet(void);

#endif
