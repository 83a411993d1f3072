/* Frames from and to the host. */
#ifndef BALLONET_CHANNEL_H
#define BALLONET_CHANNEL_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the channel tells of the host: it is there, and waits for the first frame; it is gone. */
struct channel_events {
	void (*up)(void);
	void (*lost)(void);
};
void channel_open(int fd, const struct channel_events *events);
void channel_want(struct pollfd *want);
int channel_timeout_ms(void);
void channel_ready(short revents);
bool channel_next(uint16_t *type, uint32_t *stream, uint8_t **payload, uint32_t *size);
void channel_settle(void);
size_t channel_data_room(void);
uint8_t *channel_place(void);
void channel_commit(uint16_t type, uint32_t stream, uint32_t size);
void channel_send(uint16_t type, uint32_t stream, const void *payload, uint32_t size);
void channel_flush(void);

#endif
