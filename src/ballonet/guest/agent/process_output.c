/* Output of a process, from its pipes or its terminal into frames. */
#define _GNU_SOURCE
#include "process_output.h"
#include "base.h"
#include "channel.h"
#include "drain.h"
#include "wire.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* The most that a terminal can still hold when its process has ended. */
enum { TERMINAL_REST = 128 * 1024 };

/* Ends the output of the process. Its background children may still write. */
static void leave_output(int *fd)
{
	if (*fd >= 0)
		drain_take(*fd);
	*fd = -1;
}

bool output_send(struct process *p, int which)
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
		/* The end; for a terminal that is EIO. */
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

/* What its background children add is not sent. A terminal cannot tell how much it holds: there, the output ends when
 * it is empty (reading it first brings in whatever is under way), and a limit keeps a child that goes on writing from
 * delaying the end forever. */
void output_end(struct process *p)
{
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
}
