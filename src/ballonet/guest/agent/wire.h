/* Numbers of the protocol between host and agent, which docs/agent.md describes. */
#ifndef BALLONET_WIRE_H
#define BALLONET_WIRE_H

enum {
	PROTOCOL_VERSION = 2,
	HEADER_BYTES = 12,
	MAX_TO_GUEST = 256 * 1024, /* payload of one frame from the host */
	MAX_TO_HOST = 64 * 1024,   /* payload of one frame to the host */
	WINDOW = 256 * 1024,       /* unacknowledged bytes of the output of one process, and likewise of its input */
	MAX_PROCESSES = 1024,
	/* An EXEC in all its frames: the arguments and environment that Linux accepts (a quarter of the default stack,
	 * fs/exec.c), and the rest. */
	MAX_EXEC = 2 * 1024 * 1024 + 64 * 1024,
	MAX_PING = 1024, /* payload of PING */
	MIN_SEED = 32,   /* random bytes in RESTORED */
	MAX_SEED = 512,
	MAX_ERROR_TEXT = 512,
	/* Every reply to a frame fits into this part of the output buffer. */
	CONTROL_ROOM = 8 * 1024,
	HOST_GRACE_MS = 10 * 1000,      /* power off if no host connects for this long after the last one */
	HOST_FIRST_WAIT_MS = 60 * 1000, /* power off if no host ever connects */
};

enum frame_type {
	/* host to guest */
	T_EXEC = 0x01,
	T_STDIN = 0x02,
	T_STDIN_EOF = 0x03,
	T_SIGNAL = 0x04,
	T_RESIZE = 0x05,
	T_CREDIT = 0x06,
	T_SHUTDOWN = 0x07,
	T_PING = 0x08,
	T_STATS_REQ = 0x09,
	T_WATCH_PRESSURE = 0x0a,
	T_TRIM = 0x0b,
	T_SETUP = 0x0c,
	T_EXEC_PART = 0x0d,
	T_RESTORED = 0x0e,
	T_SUSPEND = 0x0f,
	T_RESUME = 0x10,
	/* guest to host */
	T_READY = 0x81,
	T_STARTED = 0x82,
	T_STDOUT = 0x83,
	T_STDERR = 0x84,
	T_EXIT = 0x85,
	T_ERROR = 0x86,
	T_STDIN_CREDIT = 0x87,
	T_PONG = 0x88,
	T_STATS = 0x89,
	T_PRESSURE = 0x8a,
	T_TRIM_DONE = 0x8b,
	T_WATCHING = 0x8c,
	T_SETUP_DONE = 0x8d,
	T_SUSPENDED = 0x8e,
};

enum { EXEC_TTY = 1, EXEC_STDIN = 2, EXEC_BUILTIN = 4, EXEC_MAKE_DIRECTORY = 8 };
enum { TRIM_DROP_CACHES = 1, TRIM_COMPACT = 2, TRIM_SYNC = 4, TRIM_GENTLE = 8 };
enum { FEATURE_PRESSURE = 1, FEATURE_RECLAIM = 2, FEATURE_COMPACT = 4 };

#endif
