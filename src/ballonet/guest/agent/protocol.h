/* What each frame from the host means. */
#ifndef BALLONET_PROTOCOL_H
#define BALLONET_PROTOCOL_H

void protocol_dispatch(void);
void protocol_greet(void);

#endif
