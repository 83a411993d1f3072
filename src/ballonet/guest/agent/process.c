/* The table of running processes, their signals and ends. */
#define _GNU_SOURCE
#include "process.h"
#include "base.h"
#include "channel.h"
#include "end.h"
#include "family.h"
#include "process_input.h"
#include "process_output.h"
#include "spawn.h"
#include "trim.h"
#include "wire.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GRANT_STEP = WINDOW / 4 };

static const struct process vacant = {.in = -1, .out = {-1, -1}, .terminal = -1, .fail = -1};
static struct process table[MAX_PROCESSES];
static int used; /* slots from here on are free */
static int turn; /* the slot that is served first; it changes, so that none is always last */

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

/* ERROR: errno, the step that failed (0: another one), and a message. */
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
		process_refuse(stream, EAGAIN, "too many processes");
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
		process_refuse(stream, error, "cannot create a process");
		release(p);
	}
}

void process_signal(struct process *p, int number)
{
	/* 0: it has ended, and its process ID may be reused. */
	if (p->pid <= 0)
		return;
	if (number == SIGKILL)
		family_kill(p->pid, p->family);
	/* The child may not have created its group yet. */
	else if (kill(-p->pid, number) < 0)
		kill(p->pid, number);
}

void process_resize(struct process *p, uint16_t rows, uint16_t columns)
{
	struct winsize size = {.ws_row = rows, .ws_col = columns};

	if (p->out[0] >= 0)
		ioctl(p->out[0], TIOCSWINSZ, &size);
}

/* Reads the child's report. If it is empty, exec has closed the pipe, and the command is running. */
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
		/* The child exits, and is reaped like an orphan. */
		release(p);
		return;
	}
	p->started = true;
}

static void note_end(struct process *p, int status)
{
	p->pid = 0;
	p->ended = true;
	p->status = status;
	output_end(p);
	close_fd(&p->terminal);
	/* There is no reader any more. */
	close_fd(&p->in);
}

void processes_reap(void)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid <= 0)
			return;
		if (trim_reaped(pid, status))
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
		/* 0 if the child has been reaped by now. */
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
		while (output_send(p, i))
			;
	if (p->out[0] < 0 && p->out[1] < 0 && channel_data_room() >= 8)
		send_exit(p);
}

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

/* Does not poll what cannot be handled now: a pipe that has ended would otherwise wake up the loop forever. */
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
			input_push(p);
		if (fds[1].revents)
			output_send(p, 0);
		if (fds[2].revents)
			output_send(p, 1);
		if (fds[0].revents && channel_data_room() >= MAX_ERROR_TEXT + 4)
			learn_start(p);
	}
}

static bool is_listed(uint32_t stream, const uint8_t *streams, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (get_u32(streams + 4 * i) == stream)
			return true;
	return false;
}

void processes_keep(const uint8_t *streams, uint32_t count)
{
	for (int i = used - 1; i >= 0; i--) {
		if (table[i].stream == 0 || is_listed(table[i].stream, streams, count))
			continue;
		process_signal(&table[i], SIGKILL);
		/* The child is reaped like an orphan. */
		release(&table[i]);
	}
}

void processes_kill_all(void)
{
	family_kill_all();
	for (int i = used - 1; i >= 0; i--)
		if (table[i].stream != 0)
			release(&table[i]);
}
