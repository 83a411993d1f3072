/* Standard input of a process: a ring of bytes that it has not read yet. */
#define _GNU_SOURCE
#include "process_input.h"
#include "base.h"
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Bytes have been taken from the ring: by the process, or dropped. */
static void took_input(struct process *p, uint32_t bytes)
{
	p->ring_head = (p->ring_head + bytes) % WINDOW;
	p->ring_used -= bytes;
	p->owed += bytes;
	/* From the front again, so that a process that keeps up touches few pages of the ring. */
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

void input_push(struct process *p)
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
			close_fd(&p->in); /* nobody reads it any more: further input is dropped */
	}
	if (p->in < 0)
		took_input(p, p->ring_used);
	else if (p->stdin_eof && (!p->tty || end_terminal_input(p)))
		close_fd(&p->in);
}

void input_add(struct process *p, const uint8_t *bytes, uint32_t size)
{
	uint32_t tail = (p->ring_head + p->ring_used) % WINDOW;
	uint32_t first = size < WINDOW - tail ? size : WINDOW - tail;

	p->room -= size;
	p->ring_used += size;
	if (p->in >= 0) {
		memcpy(p->ring + tail, bytes, first);
		memcpy(p->ring, bytes + first, size - first);
	}
	input_push(p);
}

void input_end(struct process *p)
{
	p->stdin_eof = true;
	input_push(p);
}
