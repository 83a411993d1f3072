/* Handling of the frames from the host. An invalid frame ends the agent. A frame for a stream that does not exist is
 * ignored, because the stream may have just ended. */
#define _GNU_SOURCE
#include "protocol.h"
#include "exec_parts.h"
#include "base.h"
#include "boot.h"
#include "channel.h"
#include "end.h"
#include "memory.h"
#include "process.h"
#include "process_input.h"
#include "restored.h"
#include "setup.h"
#include "trim.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/utsname.h>

static void answer_stats(void)
{
	char text[4096];
	size_t size = memory_stats(text, sizeof text);

	channel_send(T_STATS, 0, text, (uint32_t)size);
}

static void answer_watch(uint32_t stall_us, uint32_t window_us)
{
	uint8_t reply[4];

	put_u32(reply, (uint32_t)memory_watch(stall_us, window_us));
	channel_send(T_WATCHING, 0, reply, sizeof reply);
}

static void answer_setup(uint8_t *payload, uint32_t size)
{
	uint8_t reply[4 + MAX_ERROR_TEXT];
	int error = setup_run(payload, size, channel_suspended(), (char *)reply + 4);

	if (error < 0)
		violation("SETUP is malformed", T_SETUP, 0);
	put_u32(reply, (uint32_t)error);
	channel_send(T_SETUP_DONE, 0, reply, 4 + (uint32_t)strlen((char *)reply + 4));
}

/* The host that saved the machine is gone: its requests are dropped. The one that restored it expects READY. */
static void answer_restored(const uint8_t *payload, uint32_t size)
{
	if (!is_init)
		violation("RESTORED to an agent that is not PID 1", T_RESTORED, 0);
	if (size < 8 + MIN_SEED || size > 8 + MAX_SEED)
		violation("RESTORED has an invalid length", T_RESTORED, 0);
	/* Without random numbers of its own, the machine must not run. */
	if (restored_renew(get_u64(payload), payload + 8, size - 8) != 0)
		agent_end(END_FAILED);
	exec_parts_drop();
	memory_forget();
	protocol_greet();
}

/* The machine is about to be saved. */
static void answer_suspend(uint32_t size)
{
	if (size != 0)
		violation("SUSPEND has a payload", T_SUSPEND, 0);
	channel_suspend();
}

/* The machine goes on, here or where it was restored. Processes of streams that the host does not have there are ended,
 * as if their client had disconnected. */
static void take_resume(const uint8_t *payload, uint32_t size)
{
	if (size % 4 != 0 || size / 4 > MAX_PROCESSES)
		violation("RESUME has an invalid length", T_RESUME, 0);
	processes_keep(payload, size / 4);
	channel_resume();
}

/* While the machine is suspended, the host only restores it, names it, lets it go on, or ends it. */
static bool is_allowed(uint16_t type)
{
	if (channel_suspended())
		return type == T_RESTORED || type == T_SETUP || type == T_RESUME || type == T_SHUTDOWN;
	return type != T_RESUME;
}

/* Frames on stream 0: about the machine as a whole. */
static void connection_frame(uint16_t type, uint8_t *payload, uint32_t size)
{
	if (!is_allowed(type))
		violation("not allowed while the machine is suspended, or only then", type, 0);
	switch (type) {
	case T_SHUTDOWN:
		if (size != 0)
			violation("SHUTDOWN has a payload", type, 0);
		agent_end(END_OK);
	case T_PING:
		if (size > MAX_PING)
			violation("PING is too long", type, 0);
		channel_send(T_PONG, 0, payload, size);
		return;
	case T_STATS_REQ:
		if (size != 0)
			violation("STATS_REQ has a payload", type, 0);
		answer_stats();
		return;
	case T_WATCH_PRESSURE:
		if (size != 8)
			violation("WATCH_PRESSURE is not 8 bytes long", type, 0);
		answer_watch(get_u32(payload), get_u32(payload + 4));
		return;
	case T_TRIM:
		if (size != 12)
			violation("TRIM is not 12 bytes long", type, 0);
		if (get_u32(payload + 8) & ~(uint32_t)(TRIM_DROP_CACHES | TRIM_COMPACT | TRIM_SYNC | TRIM_GENTLE))
			violation("TRIM has unknown flags", type, 0);
		if (trim_running())
			violation("TRIM before the reply to the last one", type, 0);
		trim_start(get_u64(payload), get_u32(payload + 8));
		return;
	case T_SETUP:
		answer_setup(payload, size);
		return;
	case T_SUSPEND:
		answer_suspend(size);
		return;
	case T_RESUME:
		take_resume(payload, size);
		return;
	case T_RESTORED:
		answer_restored(payload, size);
		return;
	default:
		violation("unknown type, or not allowed on stream 0", type, 0);
	}
}

static void add_credit(struct process *p, const uint8_t *payload, uint32_t size)
{
	uint32_t bytes;

	if (size != 4)
		violation("CREDIT is not 4 bytes long", T_CREDIT, p->stream);
	bytes = get_u32(payload);
	if (bytes == 0 || bytes > WINDOW - p->credit)
		violation("CREDIT exceeds the bytes that were sent", T_CREDIT, p->stream);
	p->credit += bytes;
}

static void send_signal(struct process *p, const uint8_t *payload, uint32_t size)
{
	uint32_t number = size == 4 ? get_u32(payload) : 0;

	if (number < 1 || number > 64)
		violation("SIGNAL has an invalid signal number", T_SIGNAL, p->stream);
	process_signal(p, (int)number);
}

static void take_input(struct process *p, const uint8_t *payload, uint32_t size)
{
	if (!p->has_stdin || p->stdin_eof)
		violation("STDIN for a process whose standard input is not open", T_STDIN, p->stream);
	if (size == 0 || size > p->room)
		violation("STDIN is empty or exceeds the credit", T_STDIN, p->stream);
	input_add(p, payload, size);
}

static void stream_frame(uint16_t type, uint32_t stream, uint8_t *payload, uint32_t size)
{
	struct process *p = process_find(stream);

	if (channel_suspended())
		violation("not allowed while the machine is suspended", type, stream);
	switch (type) {
	case T_EXEC:
		if (p)
			violation("EXEC on a stream that is in use", type, stream);
		payload = exec_parts_finish(stream, payload, &size);
		if (payload)
			process_exec(stream, payload, size);
		else
			process_refuse(stream, ENOMEM, "no room for arguments and environment");
		exec_parts_drop();
		return;
	case T_EXEC_PART:
		if (p)
			violation("EXEC_PART on a stream that is in use", type, stream);
		exec_parts_add(stream, payload, size);
		return;
	case T_STDIN:
		if (p)
			take_input(p, payload, size);
		return;
	case T_STDIN_EOF:
		if (size != 0)
			violation("STDIN_EOF has a payload", type, stream);
		if (p && (!p->has_stdin || p->stdin_eof))
			violation("STDIN_EOF for a process whose standard input is not open", type, stream);
		if (p)
			input_end(p);
		return;
	case T_SIGNAL:
		if (p)
			send_signal(p, payload, size);
		return;
	case T_RESIZE:
		if (size != 4)
			violation("RESIZE is not 4 bytes long", type, stream);
		if (p && !p->tty)
			violation("RESIZE for a process without a terminal", type, stream);
		if (p)
			process_resize(p, get_u16(payload), get_u16(payload + 2));
		return;
	case T_CREDIT:
		if (p)
			add_credit(p, payload, size);
		return;
	default:
		violation("unknown type, or only allowed on stream 0", type, stream);
	}
}

void protocol_dispatch(void)
{
	uint16_t type;
	uint32_t stream, size;
	uint8_t *payload;

	while (channel_next(&type, &stream, &payload, &size)) {
		if (stream == 0)
			connection_frame(type, payload, size);
		else
			stream_frame(type, stream, payload, size);
	}
}

void protocol_greet(void)
{
	uint8_t payload[4096];
	struct utsname names;
	uint16_t failed = 0;
	size_t used = 16, release;

	if (uname(&names) != 0)
		strcpy(names.release, "unknown");
	release = strlen(names.release) + 1;
	memcpy(payload + used, names.release, release);
	used += release;
	used += boot_failed_modules(payload + used, sizeof payload - used, &failed);
	put_u16(payload, PROTOCOL_VERSION);
	put_u16(payload + 2, failed);
	put_u32(payload + 4, memory_features());
	put_u64(payload + 8, uptime_ms());
	channel_send(T_READY, 0, payload, (uint32_t)used);
}
