/* The loop of a code session. It passes requests to the kernel, and what the kernel and its children write to the
 * client. docs/agent.md describes the frames. */
#define _GNU_SOURCE
#include "code_serve.h"
#include "base.h"
#include "code_place.h"
#include "code_stream.h"
#include "file_io.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_REQUEST = 16 << 20, PASSED = 64 << 10, HELLO_BYTES = 29, MAX_LANGUAGE = 32, SOON_MS = 10 };
enum { FLAG_BUSY = 1, FLAG_ALIVE = 2, FLAG_LOST = 4, FLAG_TAKEN = 8 };
enum { EXITED = 0, SIGNALLED = 1 };

struct serving {
	struct code_session *session;
	struct code_kernel *kernel;
	struct code_stream stream;
	char *piece; /* of PASSED bytes; not static, as what is static in the agent is locked in memory */
	uint64_t id;	     /* tells this session from another one with its name */
	bool busy;     /* the kernel starts, or runs code */
	bool told_end; /* the client was told that the kernel has ended */
	bool at_line_start;
	bool closed;
	char *passing; /* a request that the kernel has not read yet */
	size_t passing_size, passing_at;
	int client; /* -1: none */
	bool attached;
	uint8_t head[CODE_HEAD];
	char *request;
	size_t got; /* bytes of the frame that is being read, with its head */
};

static void drop_client(struct serving *s)
{
	close_fd(&s->client);
	free(s->request);
	s->request = NULL;
	s->got = 0;
	s->attached = false;
}

static void drop_passing(struct serving *s)
{
	free(s->passing);
	s->passing = NULL;
}

/* Outputs that are at their end are closed, and count as empty. False: something is left, for lack of room. */
static bool pump_output(struct serving *s, int which)
{
	int *fd = &s->kernel->output[which], waiting = 0;

	if (*fd < 0 || ioctl(*fd, FIONREAD, &waiting) < 0)
		return true;
	do {
		size_t room = code_room(&s->stream);
		ssize_t got;

		if (room == 0)
			return waiting == 0;
		got = read(*fd, s->piece, room < PASSED ? room : PASSED);
		if (got == 0)
			close_fd(fd);
		if (got <= 0)
			return true;
		code_put(&s->stream, which == 0 ? CODE_STDOUT : CODE_STDERR, s->piece, (size_t)got);
		waiting -= (int)got;
	} while (waiting > 0);
	return true;
}

/* A line that begins with 'd' is the end of the start, or of a request. */
static void look_for_end(struct serving *s, const char *words, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (s->at_line_start && words[i] == 'd')
			s->busy = false;
		s->at_line_start = words[i] == '\n';
	}
}

/* How many bytes the kernel has said. Closes its channel at the end. */
static size_t count_words(struct serving *s)
{
	int said = 0;
	char peeked;

	if (s->kernel->channel < 0)
		return 0;
	if (ioctl(s->kernel->channel, FIONREAD, &said) == 0 && said > 0)
		return (size_t)said;
	if (recv(s->kernel->channel, &peeked, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		close_fd(&s->kernel->channel);
	return 0;
}

static void pump_words(struct serving *s, size_t said)
{
	size_t room = code_room(&s->stream), most = said < PASSED ? said : PASSED;
	ssize_t got = recv(s->kernel->channel, s->piece, room < most ? room : most, MSG_DONTWAIT);

	if (got <= 0)
		return;
	look_for_end(s, s->piece, (size_t)got);
	code_put(&s->stream, CODE_WORDS, s->piece, (size_t)got);
}

static void put_status(uint8_t how[8], int status)
{
	put_u32(how, WIFSIGNALED(status) ? SIGNALLED : EXITED);
	put_u32(how + 4, (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
}

static void tell_end(struct serving *s)
{
	uint8_t how[8];

	put_status(how, s->kernel->status);
	code_put(&s->stream, CODE_DIED, how, sizeof how);
	s->told_end = true;
	s->busy = false;
	drop_passing(s);
}

/* What the kernel says comes after the output that was written before: it is counted before the output is read. */
static void pump(struct serving *s)
{
	bool ended = !s->kernel->alive && !s->told_end;
	size_t said = count_words(s);
	bool empty = pump_output(s, 0) & pump_output(s, 1);

	if (empty && said > 0 && code_room(&s->stream) > 0)
		pump_words(s, said);
	else if (empty && said == 0 && ended)
		tell_end(s);
	/* Nobody waits for what is written between two requests. */
	if (!s->busy && !s->attached)
		s->stream.sent = s->stream.end;
}

static void start_again(struct serving *s)
{
	uint8_t pid[4];
	int error;

	code_kernel_end(s->kernel);
	drop_passing(s);
	s->busy = s->at_line_start = true;
	error = code_kernel_start(s->kernel, s->session->command);
	if (error) {
		s->kernel->status = 127 << 8;
		tell_end(s);
		return;
	}
	s->told_end = false;
	put_u32(pid, (uint32_t)s->kernel->pid);
	code_put(&s->stream, CODE_STARTED, pid, sizeof pid);
}

static bool say_hello(struct serving *s, int client, uint8_t flags)
{
	char hello[CODE_HEAD + HELLO_BYTES + MAX_LANGUAGE] = {'H'};
	size_t language = strnlen(s->session->language, MAX_LANGUAGE);
	uint8_t *at = (uint8_t *)hello + CODE_HEAD;

	put_u32((uint8_t *)hello + 1, (uint32_t)(HELLO_BYTES + language));
	put_u64(at, s->id);
	put_u64(at + 8, s->stream.sent);
	put_u32(at + 16, (uint32_t)s->kernel->pid);
	at[20] = (uint8_t)(flags | (s->busy ? FLAG_BUSY : 0) | (s->kernel->alive ? FLAG_ALIVE : 0));
	put_status(at + 21, s->kernel->status);
	memcpy(at + HELLO_BYTES, s->session->language, language);
	return send(client, hello, CODE_HEAD + HELLO_BYTES + language, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

static bool attach(struct serving *s, const char *payload, size_t size)
{
	bool kept;

	if (size != 8)
		return false;
	pump(s);
	kept = code_seek(&s->stream, get_u64((const uint8_t *)payload));
	s->attached = true;
	return say_hello(s, s->client, kept ? 0 : FLAG_LOST);
}

/* Takes over the request's memory. */
static bool begin(struct serving *s, size_t size)
{
	if (s->busy || s->passing)
		return false;
	if (!s->kernel->alive)
		return true; /* the client has been told, or will be */
	pump(s); /* so that what was written before is not taken for output of the request */
	code_put(&s->stream, CODE_BEGUN, "", 0);
	s->busy = true;
	s->passing = s->request;
	s->passing_size = size;
	s->passing_at = 0;
	s->request = NULL;
	return true;
}

/* False: the client has broken the protocol. */
static bool handle(struct serving *s, char type, size_t size)
{
	if (s->attached == (type == 'A'))
		return false;
	switch (type) {
	case 'A':
		return attach(s, s->request, size);
	case 'R':
		return begin(s, size);
	case 'I':
		if (s->busy)
			code_kernel_interrupt(s->kernel);
		return true;
	case 'X':
		start_again(s);
		return true;
	case 'Q':
		code_kernel_end(s->kernel);
		s->closed = true;
		return true;
	default:
		return false;
	}
}

static bool read_client(struct serving *s)
{
	size_t size = s->got < CODE_HEAD ? 0 : get_u32(s->head + 1);
	ssize_t done;

	if (s->got < CODE_HEAD)
		done = recv(s->client, s->head + s->got, CODE_HEAD - s->got, MSG_DONTWAIT);
	else
		done = recv(s->client, s->request + (s->got - CODE_HEAD), size - (s->got - CODE_HEAD), MSG_DONTWAIT);
	if (done <= 0)
		return done < 0 && (errno == EAGAIN || errno == EINTR);
	s->got += (size_t)done;
	if (s->got < CODE_HEAD)
		return true;
	size = get_u32(s->head + 1);
	if (s->got == CODE_HEAD) {
		if (size > MAX_REQUEST || !(s->request = malloc(size + 1)))
			return false;
	}
	if (s->got < CODE_HEAD + size)
		return true;
	s->got = 0;
	if (!handle(s, (char)s->head[0], size))
		return false;
	free(s->request);
	s->request = NULL;
	return true;
}

static void accept_client(struct serving *s)
{
	int client = accept4(s->session->listener, NULL, NULL, SOCK_CLOEXEC);

	if (client < 0)
		return;
	if (s->client >= 0) {
		say_hello(s, client, FLAG_TAKEN);
		close(client);
		return;
	}
	s->client = client;
}

static void pass_request(struct serving *s)
{
	ssize_t done = send(s->kernel->channel, s->passing + s->passing_at, s->passing_size - s->passing_at,
			    MSG_NOSIGNAL | MSG_DONTWAIT);

	if (done < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (done > 0)
		s->passing_at += (size_t)done;
	if (done < 0 || s->passing_at == s->passing_size)
		drop_passing(s);
}

static void wait_and_handle(struct serving *s, int children)
{
	struct code_kernel *kernel = s->kernel;
	bool room = code_room(&s->stream) > 0, unsent = s->attached && s->stream.sent < s->stream.end;
	short output = room ? POLLIN : 0;
	struct pollfd all[] = {
		{children, POLLIN, 0},
		{s->client, (short)(POLLIN | (unsent ? POLLOUT : 0)), 0},
		{s->session->listener, POLLIN, 0},
		/* Without room, not even a hang-up is of interest. */
		{room || s->passing ? kernel->channel : -1, (short)(output | (s->passing ? POLLOUT : 0)), 0},
		{room ? kernel->output[0] : -1, output, 0},
		{room ? kernel->output[1] : -1, output, 0},
	};
	struct signalfd_siginfo ignored;

	/* An ended kernel may have said something, without an event to come. */
	if (poll(all, sizeof all / sizeof *all, kernel->alive || s->told_end ? -1 : SOON_MS) < 0)
		return;
	if (all[0].revents && read(children, &ignored, sizeof ignored) > 0)
		code_kernel_reap(kernel);
	if (s->client >= 0 && all[1].revents & ~POLLOUT && !read_client(s))
		drop_client(s);
	if (s->closed)
		return;
	if (all[2].revents)
		accept_client(s);
	if (s->passing && kernel->channel >= 0)
		pass_request(s);
	pump(s);
	if (s->attached && !code_send(&s->stream, s->client))
		drop_client(s);
}

void code_serve(struct code_session *session)
{
	struct serving s = {.session = session, .kernel = &session->kernel, .at_line_start = true, .client = -1};
	sigset_t children;
	int signals;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
	s.stream.kept = room_for(CODE_KEPT);
	s.piece = room_for(PASSED);
	if (getrandom(&s.id, sizeof s.id, 0) < 0)
		s.id = uptime_ms();
	s.busy = true;
	code_kernel_reap(&session->kernel);
	while (!s.closed)
		wait_and_handle(&s, signals);
	code_leave_place(session->prefix, session->name, session->lock);
	drop_client(&s); /* which tells the client that the session is closed */
}
