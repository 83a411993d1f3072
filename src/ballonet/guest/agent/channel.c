/* The channel to the host: splits the input into frames, and sends frames. protocol.c handles them.
 *
 * Room in the output buffer is reserved so that the agent always reads its input: process output and notices leave
 * twice CONTROL_ROOM free, and a frame is taken from the input only while CONTROL_ROOM is free for its reply. Only a
 * host that sends requests and does not read the replies has to wait. */
#define _GNU_SOURCE
#include "channel.h"
#include "base.h"
#include "end.h"
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { OUT_BYTES = 128 * 1024, WRITE_BYTES = 32 * 1024, READS_PER_TURN = 64, BACK_OFF_MS = 20 };

static int port = -1;
static int reconnect = -1; /* an epoll for the return of a lost host */
static bool linked;        /* the host is connected */
static bool leaving;       /* the host has closed: read what it sent, send nothing more */
static bool back_off;      /* the kernel had no memory for the last write */
static bool at_end;        /* the input has ended */
static bool suspended;     /* the machine is about to be saved: no data frames and notices */
static int64_t deadline;   /* while not linked: when to power off */

static uint8_t in[HEADER_BYTES + MAX_TO_GUEST];
static size_t in_start, in_end;
static uint8_t out[OUT_BYTES];
static size_t out_start, out_end;

static size_t out_room(void)
{
	return OUT_BYTES - (out_end - out_start);
}

/* A virtio port reports POLLHUP while the host's end is not open. */
static bool host_is_there(void)
{
	struct pollfd probe = {.fd = port, .events = POLLIN};

	return poll(&probe, 1, 0) >= 0 && !(probe.revents & (POLLHUP | POLLERR));
}

static const struct channel_events *callbacks;

static void link_up(void)
{
	linked = true;
	leaving = at_end = back_off = suspended = false;
	in_start = in_end = out_start = out_end = 0;
	callbacks->up();
}

/* A new host cannot take over what ran for the lost one, so that ends now. */
static void link_down(void)
{
	bool half_frame = in_end > in_start;

	if (!is_init) {
		if (half_frame)
			complain("the host closed the channel in the middle of a frame");
		agent_end(half_frame ? END_VIOLATION : END_OK);
	}
	complain("the host closed the channel");
	callbacks->lost();
	linked = false;
	out_start = out_end = 0;
	deadline = now_ms() + HOST_GRACE_MS;
}

void channel_open(int fd, const struct channel_events *events)
{
	callbacks = events;
	port = fd;
	if (!is_init) {
		link_up();
		return;
	}
	/* POLLHUP of a disconnected port cannot be masked, so that polling the port itself would never sleep. An
	 * edge-triggered epoll reports only the changes. */
	reconnect = epoll_create1(EPOLL_CLOEXEC);
	if (reconnect >= 0) {
		struct epoll_event edge = {.events = EPOLLIN | EPOLLOUT | EPOLLET};

		if (epoll_ctl(reconnect, EPOLL_CTL_ADD, port, &edge) < 0) {
			close(reconnect);
			reconnect = -1;
		}
	}
	if (reconnect < 0) {
		complain("epoll: %s", strerror(errno));
		agent_end(END_FAILED);
	}
	deadline = now_ms() + HOST_FIRST_WAIT_MS;
	if (host_is_there())
		link_up();
}

void channel_want(struct pollfd *want)
{
	*want = (struct pollfd){.fd = reconnect, .events = POLLIN};
	if (!linked)
		return;
	want->fd = port;
	want->events = 0;
	if (out_room() >= CONTROL_ROOM && in_end - in_start < sizeof in)
		want->events |= POLLIN;
	if (out_end > out_start && !back_off)
		want->events |= POLLOUT;
}

int channel_timeout_ms(void)
{
	int64_t left;

	if (linked && at_end)
		return 0;
	if (linked)
		return back_off ? BACK_OFF_MS : -1;
	left = deadline - now_ms();
	return left > 0 ? (int)left : 0;
}

static void fill(void)
{
	for (int turn = 0; turn < READS_PER_TURN; turn++) {
		ssize_t got;

		if (in_start > 0 && in_end == sizeof in) {
			memmove(in, in + in_start, in_end - in_start);
			in_end -= in_start;
			in_start = 0;
		}
		if (in_end == sizeof in)
			return;
		got = read(port, in + in_end, sizeof in - in_end);
		if (got > 0) {
			in_end += (size_t)got;
		} else if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
			return;
		} else {
			at_end = leaving = true;
			out_start = out_end = 0;
			return;
		}
	}
}

void channel_ready(short revents)
{
	back_off = false;
	if (!linked) {
		struct epoll_event ignored;

		if (revents)
			epoll_wait(reconnect, &ignored, 1, 0);
		if (host_is_there())
			link_up();
		else if (now_ms() >= deadline) {
			complain("no host has connected: powering off");
			agent_end(END_OK);
		}
		return;
	}
	if (revents & (POLLHUP | POLLERR)) {
		leaving = true;
		out_start = out_end = 0;
	}
	if (revents & (POLLIN | POLLHUP | POLLERR))
		fill();
}

bool channel_next(uint16_t *type, uint32_t *stream, uint8_t **payload, uint32_t *size)
{
	const uint8_t *header = in + in_start;
	size_t here = in_end - in_start;

	if (!linked || here < HEADER_BYTES || out_room() < CONTROL_ROOM)
		return false;
	*size = get_u32(header);
	*type = get_u16(header + 4);
	*stream = get_u32(header + 8);
	if (*size > MAX_TO_GUEST)
		violation("a frame is too long", *type, *stream);
	if (get_u16(header + 6) != 0)
		violation("the flags of a frame are not zero", *type, *stream);
	if (here < HEADER_BYTES + *size) {
		if (in_start + HEADER_BYTES + *size > sizeof in) {
			memmove(in, in + in_start, here);
			in_start = 0;
			in_end = here;
		}
		return false;
	}
	*payload = in + in_start + HEADER_BYTES;
	in_start += HEADER_BYTES + *size;
	if (in_start == in_end)
		in_start = in_end = 0;
	return true;
}

void channel_settle(void)
{
	if (linked && at_end)
		link_down();
}

size_t channel_data_room(void)
{
	size_t room = out_room(), kept = 2 * CONTROL_ROOM + HEADER_BYTES;

	if (!linked || suspended || room <= kept)
		return 0;
	return room - kept < MAX_TO_HOST ? room - kept : MAX_TO_HOST;
}

uint8_t *channel_place(void)
{
	if (out_start > 0) {
		memmove(out, out + out_start, out_end - out_start);
		out_end -= out_start;
		out_start = 0;
	}
	return out + out_end + HEADER_BYTES;
}

void channel_commit(uint16_t type, uint32_t stream, uint32_t size)
{
	uint8_t *header = out + out_end;

	if (!linked || leaving)
		return;
	put_u32(header, size);
	put_u16(header + 4, type);
	put_u16(header + 6, 0);
	put_u32(header + 8, stream);
	out_end += HEADER_BYTES + size;
}

void channel_send(uint16_t type, uint32_t stream, const void *payload, uint32_t size)
{
	uint8_t *place = channel_place();

	if (HEADER_BYTES + size > out_room()) {
		complain("no room for a reply of %u bytes", (unsigned)size);
		agent_end(END_FAILED);
	}
	if (size > 0)
		memcpy(place, payload, size);
	channel_commit(type, stream, size);
}

void channel_suspend(void)
{
	channel_send(T_SUSPENDED, 0, NULL, 0);
	suspended = true;
}

void channel_resume(void)
{
	suspended = false;
}

bool channel_suspended(void)
{
	return suspended;
}

void channel_flush(void)
{
	while (linked && !leaving && out_end > out_start) {
		size_t size = out_end - out_start;
		ssize_t put = write(port, out + out_start, size < WRITE_BYTES ? size : WRITE_BYTES);

		if (put > 0) {
			out_start += (size_t)put;
		} else if (put < 0 && errno == EINTR) {
			continue;
		} else if (put < 0 && (errno == ENOMEM || errno == ENOBUFS)) {
			back_off = true;
			return;
		} else if (put == 0 || errno == EAGAIN) {
			return;
		} else {
			/* What the host sent before it disconnected is still read: it may be SHUTDOWN. */
			leaving = true;
			out_start = out_end = 0;
			fill();
			at_end = true;
			return;
		}
	}
	if (out_start == out_end)
		out_start = out_end = 0;
}
