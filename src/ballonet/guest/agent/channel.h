/* Frames from and to the host. */
#ifndef BALLONET_CHANNEL_H
#define BALLONET_CHANNEL_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Called when the host has connected, and expects the first frame, and when it has disconnected. */
struct channel_events {
	void (*up)(void);
	void (*lost)(void);
};
void channel_open(int fd, const struct channel_events *events);
void channel_want(struct pollfd *want);
int channel_timeout_ms(void);
void channel_ready(short revents);
/* The next complete frame of the input, if there is room for a reply. The payload is valid until the next call. An
 * invalid frame ends the agent. */
bool channel_next(uint16_t *type, uint32_t *stream, uint8_t **payload, uint32_t *size);
/* Called when all frames that can be handled were handled. */
void channel_settle(void);
/* How many bytes of payload a data frame or notice may have now. */
size_t channel_data_room(void);
/* The place for the payload of the next frame, so that output is read directly into its frame. */
uint8_t *channel_place(void);
/* Makes a frame of the `size` bytes at channel_place(). */
void channel_commit(uint16_t type, uint32_t stream, uint32_t size);
/* The caller has checked that there is room: CONTROL_ROOM for a reply, otherwise channel_data_room(). */
void channel_send(uint16_t type, uint32_t stream, const void *payload, uint32_t size);
void channel_flush(void);
/* Sends SUSPENDED, and nothing but replies to frames after it, until channel_resume(). */
void channel_suspend(void);
void channel_resume(void);
bool channel_suspended(void);

#endif
