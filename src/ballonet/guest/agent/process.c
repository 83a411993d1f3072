/* The table of running processes: their output, input, signals and ends. */
#define _GNU_SOURCE
#include "process.h"
#include "base.h"
#include "channel.h"
#include "drain.h"
#include "end.h"
#include "family.h"
#include "memory.h"
#include "spawn.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* What a terminal can still hold when its process has ended; it cannot be asked (see note_end). */
enum { TERMINAL_REST = 128 * 1024, GRANT_STEP = WINDOW / 4 };

static const struct process vacant = {.in = -1, .out = {-1, -1}, .terminal = -1, .fail = -1};
static struct process table[MAX_PROCESSES];
static int used; /* slots from here on are free */
static int turn; /* which slot is served first: moves on, so that none is always last */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* The process has no output any more; its background children may have. */
static void leave_output(int *fd)
{
	if (*fd >= 0)
		drain_take(*fd);
	*fd = -1;
}

void processes_init(void)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		table[i] = vacant;
}

struct process *process_find(uint32_t stream)
{
	for (int i = 0; i < used; i++)
		if (table[i].stream == stream)
			return &table[i];
	return NULL;
}

static void release(struct process *p)
{
	close_fd(&p->in);
	close_fd(&p->out[0]);
	close_fd(&p->out[1]);
	close_fd(&p->terminal);
	close_fd(&p->fail);
	if (p->ring)
		munmap(p->ring, WINDOW);
	if (p->family)
		family_leave(p->family);
	*p = vacant;
	while (used > 0 && table[used - 1].stream == 0)
		used--;
}

/* ERROR: errno, the step that failed (0: none in particular), and what that is for a person. */
static void send_error(uint32_t stream, int error, int step, const char *text)
{
	uint8_t payload[4 + MAX_ERROR_TEXT];
	size_t size = strnlen(text, MAX_ERROR_TEXT - 1);

	put_u16(payload, (uint16_t)error);
	put_u16(payload + 2, (uint16_t)step);
	memcpy(payload + 4, text, size);
	channel_send(T_ERROR, stream, payload, 4 + (uint32_t)size);
}

void process_refuse(uint32_t stream, int error, const char *what)
{
	char text[MAX_ERROR_TEXT];

	snprintf(text, sizeof text, "%s: %s", what, strerror(error));
	send_error(stream, error, 0, text);
}

void process_exec(uint32_t stream, uint8_t *payload, uint32_t size)
{
	struct exec_request request;
	struct process *p = NULL;
	int error;

	if (!exec_parse(payload, size, &request))
		violation("EXEC is malformed", T_EXEC, stream);
	for (int i = 0; i < MAX_PROCESSES && !p; i++)
		if (table[i].stream == 0)
			p = &table[i];
	if (!p) {
		process_refuse(stream, EAGAIN, "there are too many processes");
		return;
	}
	if (p - table >= used)
		used = (int)(p - table) + 1;
	p->stream = stream;
	p->tty = request.flags & EXEC_TTY;
	p->has_stdin = request.flags & EXEC_STDIN;
	p->credit = p->room = WINDOW;
	error = exec_spawn(p, &request);
	if (error) {
		process_refuse(stream, error, "cannot make a process for it");
		release(p);
	}
}

/* Bytes of standard input have left our hands, into the process or into nowhere. */
static void took_input(struct process *p, uint32_t bytes)
{
	p->ring_head = (p->ring_head + bytes) % WINDOW;
	p->ring_used -= bytes;
	p->owed += bytes;
	/* Start again at the front, so that a process that keeps up touches few pages of the ring. */
	if (p->ring_used == 0)
		p->ring_head = 0;
}

/* The end of input of a terminal is a character (termios, VEOF), and means something in canonical mode only. */
static bool end_terminal_input(struct process *p)
{
	struct termios settings;

	if (tcgetattr(p->in, &settings) == 0 && settings.c_lflag & ICANON)
		return write(p->in, &settings.c_cc[VEOF], 1) == 1 || errno != EAGAIN;
	return true;
}

static void push_input(struct process *p)
{
	while (p->in >= 0 && p->ring_used > 0) {
		uint32_t whole = WINDOW - p->ring_head;
		uint32_t size = p->ring_used < whole ? p->ring_used : whole;
		ssize_t put = write(p->in, p->ring + p->ring_head, size);

		if (put > 0)
			took_input(p, (uint32_t)put);
		else if (put < 0 && errno == EINTR)
			continue;
		else if (put == 0 || errno == EAGAIN)
			return;
		else
			close_fd(&p->in); /* it reads no more: what still comes is taken and dropped */
	}
	if (p->in < 0)
		took_input(p, p->ring_used);
	else if (p->stdin_eof && (!p->tty || end_terminal_input(p)))
		close_fd(&p->in);
}

/* The caller has checked that `size` is within p->room, so the ring has space for it. */
void process_input(struct process *p, const uint8_t *bytes, uint32_t size)
{
	uint32_t tail = (p->ring_head + p->ring_used) % WINDOW;
	uint32_t first = size < WINDOW - tail ? size : WINDOW - tail;

	p->room -= size;
	p->ring_used += size;
	if (p->in >= 0) {
		memcpy(p->ring + tail, bytes, first);
		memcpy(p->ring, bytes + first, size - first);
	}
	push_input(p);
}

void process_input_end(struct process *p)
{
	p->stdin_eof = true;
	push_input(p);
}

/* To the process group; SIGKILL to everything that it started. Once the process has ended its number may be
 * another's. */
void process_signal(struct process *p, int number)
{
	if (p->pid <= 0)
		return;
	if (number == SIGKILL)
		family_kill(p->pid, p->family);
	/* The child may not have made its group yet. */
	else if (kill(-p->pid, number) < 0)
		kill(p->pid, number);
}

void process_resize(struct process *p, uint16_t rows, uint16_t columns)
{
	struct winsize size = {.ws_row = rows, .ws_col = columns};

	if (p->out[0] >= 0)
		ioctl(p->out[0], TIOCSWINSZ, &size);
}

/* Sends one frame of output, as much as credit and room allow. False: nothing can be sent now. */
static bool pull_output(struct process *p, int which)
{
	size_t size = channel_data_room();
	ssize_t got;

	if (size > p->credit)
		size = p->credit;
	if (p->ended && size > p->left[which])
		size = p->left[which];
	if (p->out[which] < 0 || size == 0)
		return false;
	got = read(p->out[which], channel_place(), size);
	if (got > 0) {
		channel_commit(which == 0 ? T_STDOUT : T_STDERR, p->stream, (uint32_t)got);
		p->credit -= (uint32_t)got;
		p->left[which] -= p->ended ? (uint32_t)got : 0;
	} else if (got < 0 && errno == EINTR) {
		return true;
	} else if (got == 0 || errno != EAGAIN) {
		/* A terminal says EIO at its end. */
		close_fd(&p->out[which]);
		return false;
	} else {
		if (p->ended)
			leave_output(&p->out[which]);
		return false;
	}
	if (p->ended && p->left[which] == 0)
		leave_output(&p->out[which]);
	return true;
}

/* Reads the child's report. Empty means that exec closed it: the command runs. */
static void learn_start(struct process *p)
{
	struct exec_failure failure;
	ssize_t got;

	if (p->fail < 0)
		return;
	got = read(p->fail, &failure, sizeof failure);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close_fd(&p->fail);
	if (got == (ssize_t)sizeof failure) {
		failure.text[sizeof failure.text - 1] = '\0';
		send_error(p->stream, failure.error, failure.step, failure.text);
		/* The child ends by itself and is reaped like an orphan. */
		release(p);
		return;
	}
	p->started = true;
}

/* What is in the pipes when the process ends is still its output; what its background children add is not.
 * A terminal cannot tell how much it holds: there, "empty" ends the output (reading it first brings in
 * whatever is under way), and a limit keeps a child that writes on from delaying the end forever. */
static void note_end(struct process *p, int status)
{
	p->pid = 0;
	p->ended = true;
	p->status = status;
	for (int i = 0; i < 2; i++) {
		int bytes = 0;

		if (p->out[i] < 0)
			continue;
		if (p->tty)
			bytes = TERMINAL_REST;
		else if (ioctl(p->out[i], FIONREAD, &bytes) < 0)
			bytes = 0;
		p->left[i] = (uint32_t)bytes;
		if (bytes == 0)
			leave_output(&p->out[i]);
	}
	close_fd(&p->terminal);
	/* Nobody is left to read it. */
	close_fd(&p->in);
}

void processes_reap(void)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid <= 0)
			return;
		if (memory_reaped(pid, status))
			continue;
		for (int i = 0; i < used; i++) {
			if (table[i].stream != 0 && table[i].pid == pid) {
				note_end(&table[i], status);
				break;
			}
		}
	}
}

static void send_exit(struct process *p)
{
	uint8_t payload[8];
	bool signalled = WIFSIGNALED(p->status);

	put_u32(payload, signalled);
	put_u32(payload + 4, (uint32_t)(signalled ? WTERMSIG(p->status) : WEXITSTATUS(p->status)));
	channel_send(T_EXIT, p->stream, payload, sizeof payload);
	release(p);
}

static void settle(struct process *p)
{
	uint8_t number[4];

	if (channel_data_room() < MAX_ERROR_TEXT + 4)
		return;
	if (p->ended)
		learn_start(p);
	if (p->stream == 0 || !p->started)
		return;
	if (!p->announced) {
		/* The pid of a child that was quicker than us is not known any more: 0. */
		put_u32(number, (uint32_t)p->pid);
		channel_send(T_STARTED, p->stream, number, sizeof number);
		p->announced = true;
	}
	if (!p->ended) {
		if (p->owed >= GRANT_STEP && !p->stdin_eof && channel_data_room() >= sizeof number) {
			put_u32(number, p->owed);
			channel_send(T_STDIN_CREDIT, p->stream, number, sizeof number);
			p->room += p->owed;
			p->owed = 0;
		}
		return;
	}
	for (int i = 0; i < 2; i++)
		while (pull_output(p, i))
			;
	if (p->out[0] < 0 && p->out[1] < 0 && channel_data_room() >= 8)
		send_exit(p);
}

/* Sends whatever has come due and fits. */
void processes_settle(void)
{
	int count = used;

	if (count == 0)
		return;
	turn = (turn + 1) % count;
	for (int i = 0; i < count; i++) {
		struct process *p = &table[(turn + i) % count];

		if (p->stream != 0)
			settle(p);
	}
}

/* Fills FDS_PER_PROCESS entries per slot; returns how many. What cannot be handled now is not asked for: a
 * pipe that has ended would otherwise wake us for ever. */
int processes_want(struct pollfd *want)
{
	bool room = channel_data_room() >= MAX_ERROR_TEXT + 4;

	for (int i = 0; i < used; i++, want += FDS_PER_PROCESS) {
		struct process *p = &table[i];
		bool output = room && p->announced && !p->ended && p->credit > 0;
		bool input = p->ring_used > 0 || p->stdin_eof;

		want[0] = (struct pollfd){.fd = room ? p->fail : -1, .events = POLLIN};
		want[1] = (struct pollfd){.fd = output ? p->out[0] : -1, .events = POLLIN};
		want[2] = (struct pollfd){.fd = output ? p->out[1] : -1, .events = POLLIN};
		want[3] = (struct pollfd){.fd = input ? p->in : -1, .events = POLLOUT};
	}
	return used * FDS_PER_PROCESS;
}

void processes_ready(const struct pollfd *ready)
{
	int count = used;

	for (int i = 0; i < count; i++) {
		int slot = (turn + i) % count;
		struct process *p = &table[slot];
		const struct pollfd *fds = ready + slot * FDS_PER_PROCESS;

		if (p->stream == 0)
			continue;
		if (fds[3].revents && p->in >= 0)
			push_input(p);
		if (fds[1].revents)
			pull_output(p, 0);
		if (fds[2].revents)
			pull_output(p, 1);
		if (fds[0].revents && channel_data_room() >= MAX_ERROR_TEXT + 4)
			learn_start(p);
	}
}

/* Ends all of them, the orphans of old ones, too, and forgets them without a word. */
void processes_kill_all(void)
{
	family_kill_all();
	for (int i = used - 1; i >= 0; i--)
		if (table[i].stream != 0)
			release(&table[i]);
}
