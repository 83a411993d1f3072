/* The guest agent: what its parts offer one another. The wire format is described in docs/agent.md.
 *
 * One thread, one poll loop, no blocking call on any path that the loop takes, and no memory that grows with
 * what is sent: buffers are static, a process with standard input adds one mapping of fixed size, and so does a long
 * EXEC while it arrives.
 */
#ifndef BALLONET_AGENT_H
#define BALLONET_AGENT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	PROTOCOL_VERSION = 2,
	HEADER_BYTES = 12,
	MAX_TO_GUEST = 256 * 1024, /* payload of one frame from the host */
	MAX_TO_HOST = 64 * 1024,   /* payload of one frame to the host */
	WINDOW = 256 * 1024,       /* unacknowledged bytes: output of one process, and likewise its input */
	MAX_PROCESSES = 1024,
	/* An EXEC in all its frames: what Linux takes as arguments and environment (a quarter of the default stack,
	 * fs/exec.c), and the rest. */
	MAX_EXEC = 2 * 1024 * 1024 + 64 * 1024,
	MAX_PING = 1024, /* payload of PING */
	MAX_ERROR_TEXT = 512,
	/* Every reply that is made while a frame is handled fits in this much of the output buffer. */
	CONTROL_ROOM = 8 * 1024,
	HOST_GRACE_MS = 10 * 1000,    /* host gone: power off after this */
	HOST_FIRST_WAIT_MS = 60 * 1000, /* host never seen: power off after this */
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
};

enum { EXEC_TTY = 1, EXEC_STDIN = 2, EXEC_BUILTIN = 4, EXEC_MAKE_DIRECTORY = 8 };
enum { TRIM_DROP_CACHES = 1, TRIM_COMPACT = 2, TRIM_SYNC = 4 };
enum { FEATURE_PRESSURE = 1, FEATURE_RECLAIM = 2, FEATURE_COMPACT = 4 };

/* How the agent ends when it is not PID 1. As PID 1 it powers the machine off instead. */
enum { END_OK = 0, END_USAGE = 2, END_VIOLATION = 3, END_FAILED = 4 };

/* main.c */
extern bool is_init;
int64_t now_ms(void);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void agent_end(int status);
_Noreturn void violation(const char *why, uint16_t type, uint32_t stream);

/* little-endian fields, at any alignment */
uint16_t get_u16(const uint8_t *from);
uint32_t get_u32(const uint8_t *from);
uint64_t get_u64(const uint8_t *from);
void put_u16(uint8_t *to, uint16_t value);
void put_u32(uint8_t *to, uint32_t value);
void put_u64(uint8_t *to, uint64_t value);

/* boot.c */
void boot(void);
int boot_open_port(void);
void boot_protect_self(void);
void boot_unprotect_child(void);
/* Appends "errno (u16), name, NUL" per module that could not be loaded; returns the bytes used. */
size_t boot_failed_modules(uint8_t *to, size_t room, uint16_t *count);
_Noreturn void power_off(void);

/* channel.c */
void channel_open(int fd);
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

/* protocol.c */
void protocol_dispatch(void);
void protocol_greet(void);

/* process.c */
struct process {
	uint32_t stream; /* 0: the slot is free */
	pid_t pid;       /* the direct child, and its process group and session; 0 once reaped */
	int in;          /* our ends, -1 when closed */
	int out[2];
	/* The process's side of its terminal. We hold it open, because a program that closes its descriptors before
	 * it ends would otherwise look like the end of output, and closing our side would hang up on it. */
	int terminal;
	int fail; /* the child's report that it could not exec; closes when it could */
	bool tty, has_stdin, stdin_eof, started, announced, ended;
	int status;       /* of waitpid, once ended */
	uint32_t credit;  /* output bytes that may still be sent */
	uint32_t left[2]; /* once ended: bytes of each pipe that still belong to the process */
	uint8_t *ring;    /* standard input not yet taken, WINDOW bytes */
	uint32_t ring_head, ring_used;
	uint32_t room; /* stdin bytes that the host may still send */
	uint32_t owed; /* stdin bytes taken but not yet granted again */
	uint32_t family; /* its cgroup, 0 if it has none */
};

enum { FDS_PER_PROCESS = 4 };
void processes_init(void);
struct process *process_find(uint32_t stream);
void process_exec(uint32_t stream, uint8_t *payload, uint32_t size);
void process_input(struct process *p, const uint8_t *bytes, uint32_t size);
void process_input_end(struct process *p);
void process_signal(struct process *p, int number);
void process_resize(struct process *p, uint16_t rows, uint16_t columns);
int processes_want(struct pollfd *want);
void processes_ready(const struct pollfd *ready);
void processes_settle(void);
void processes_reap(void);
void processes_kill_all(void);
void process_refuse(uint32_t stream, int error, const char *what);

/* assembly.c: an EXEC that comes in several frames */
void assembly_add(uint32_t stream, const uint8_t *bytes, uint32_t size);
/* The whole payload that the last frame of an EXEC completes; NULL: there was no memory for it. */
uint8_t *assembly_finish(uint32_t stream, uint8_t *last, uint32_t *size);
void assembly_drop(void);

/* drain.c: outputs of processes that have ended, which their background children still write to */
void drain_init(void);
/* Takes the descriptor over. */
void drain_take(int fd);
void drain_want(struct pollfd *want);
int drain_timeout_ms(int other_ms);
void drain_ready(short revents);

/* family.c: a process and everything that it started */
void family_init(void);
/* Forks into a cgroup of the family's own where there are cgroups; `family` is its number, 0 without one. */
pid_t family_fork(uint32_t *family);
void family_leave(uint32_t family);
/* Kills them all. `leader` is the process itself, which leads its session, too. */
void family_kill(pid_t leader, uint32_t family);
/* Kills every process but the agent; where it is not PID 1, every descendant of it. */
void family_kill_all(void);

/* user.c */
struct account {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
	char home[4096];
};
/* Looks USER[:GROUP] up in the guest's own files. Runs in the child. False: `text` says why. */
bool user_find(const char *user, struct account *found, char text[MAX_ERROR_TEXT]);

/* spawn.c */
struct exec_request {
	uint16_t flags, rows, columns;
	const char *user, *directory;
	char *words; /* the arguments, then the environment, up to the end of the payload */
	const char *words_end;
	uint32_t argument_count, environment_count;
	char **arguments, **environment; /* the same; only in the child, which has the memory for them */
};
/* Takes `count` strings, each ended by NUL, and NULL after them. */
bool take_words(char **words, uint32_t count, char **at, const char *end);
bool exec_parse(uint8_t *payload, uint32_t size, struct exec_request *request);
int exec_spawn(struct process *p, const struct exec_request *request);
/* What the child writes to its `fail` pipe: the step that failed, errno, and what that is for a person. */
struct exec_failure {
	int step, error;
	char text[MAX_ERROR_TEXT];
};

/* files.c: what a child does for an EXEC with EXEC_BUILTIN. */
_Noreturn void file_program(char **words);

/* root.c */
int root_copy(const char *to);
int root_switch(const char *root, bool keep_tmp);

/* setup.c */
int make_directories(const char *path);
int setup_run(uint8_t *payload, uint32_t size, char text[MAX_ERROR_TEXT]);

/* memory.c */
void memory_init(void);
uint32_t memory_features(void);
size_t memory_stats(char *to, size_t room);
int memory_watch(uint32_t stall_us, uint32_t window_us);
void memory_want(struct pollfd *want);
void memory_ready(short revents);
bool memory_trimming(void);
void memory_trim(uint64_t bytes, uint32_t flags);
bool memory_reaped(pid_t pid, int status);
void memory_settle(void);
void memory_forget(void);

#endif
