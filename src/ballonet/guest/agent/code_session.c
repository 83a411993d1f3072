/* Starting a code session, and connecting to one. The session outlives the command that starts it, and its connections:
 * a guest can be paused between two of them. */
#define _GNU_SOURCE
#include "code_session.h"
#include "base.h"
#include "code_place.h"
#include "code_serve.h"
#include "file_io.h"
#include "file_report.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STATUS_EXISTS = 3, STATUS_NONE = 4, STATUS_NO_COMMAND = 5 };
enum { WAITING_CLIENTS = 8, COPIED = 64 << 10 };

static const char kernel_word[] = "{kernel}"; /* in the command: the path of the kernel program */

static int write_kernel(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int error = fd < 0 ? errno : copy_all(STDIN_FILENO, fd);

	if (fd >= 0)
		close(fd);
	return error;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = code_address(path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	unlink(path); /* of a session that was killed */
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
	    listen(listener, WAITING_CLIENTS) < 0)
		return -1;
	return listener;
}

/* Leaves the command that started it: its streams, its session, its terminal. */
static int leave(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null < 0)
		return errno;
	for (int fd = 0; fd < 3; fd++)
		if (dup2(null, fd) < 0)
			return errno;
	return prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ? errno : 0;
}

static _Noreturn void run_session(struct code_session *session, int told)
{
	int error = leave();

	if (!error)
		error = code_kernel_start(&session->kernel, session->command);
	if (error)
		code_leave_place(session->prefix, session->name, session->lock);
	if (write(told, &error, sizeof error) < 0)
		_exit(1); /* nobody knows of it: its files are those of a session that was killed */
	close(told);
	if (!error)
		code_serve(session);
	_exit(0);
}

static _Noreturn void start_session(char **words)
{
	const char *prefix = words[0], *name = words[1];
	struct code_session session = {.prefix = prefix, .name = name, .language = words[2], .command = words + 3};
	char path[CODE_PATH_BYTES], kernel[CODE_PATH_BYTES];
	int told[2], error;
	pid_t pid;

	report_begin(name);
	session.lock = code_take_place(prefix, name);
	if (session.lock < 0 && errno == EBUSY)
		_exit(STATUS_EXISTS);
	if (session.lock < 0)
		fail_about(prefix, errno);
	error = code_path(prefix, name, "kernel", kernel);
	if (!error)
		error = code_path(prefix, name, "socket", path);
	if (!error)
		error = write_kernel(kernel);
	if (!error && (session.listener = listen_at(path)) < 0)
		error = errno;
	if (!error && pipe2(told, O_CLOEXEC) < 0)
		error = errno;
	if (error) {
		code_leave_place(prefix, name, session.lock);
		fail(error);
	}
	for (char **word = session.command; *word; word++)
		if (strcmp(*word, kernel_word) == 0)
			*word = kernel;
	pid = fork();
	if (pid == 0)
		run_session(&session, told[1]);
	close(told[1]);
	if (pid < 0 || read(told[0], &error, sizeof error) != sizeof error)
		error = EAGAIN;
	if (!error)
		_exit(0);
	report_begin(session.command[0]);
	report_errno("", error);
	_exit(error == ENOENT ? STATUS_NO_COMMAND : 1);
}

static void copy_pieces(int from, int to)
{
	char *piece = room_for(COPIED);
	ssize_t got;

	while ((got = read(from, piece, COPIED)) > 0 || (got < 0 && errno == EINTR))
		if (got > 0 && !write_full(to, piece, (size_t)got))
			return;
}

/* One process for each direction: a client that does not read can still interrupt. */
static _Noreturn void connect_session(char **words)
{
	char path[CODE_PATH_BYTES];
	int error = code_path(words[0], words[1], "socket", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = code_address(path);
	pid_t pid;

	report_begin(words[1]);
	if (error)
		fail(error);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		report_errno("", errno);
		_exit(errno == ENOENT || errno == ECONNREFUSED ? STATUS_NONE : 1);
	}
	pid = fork();
	if (pid < 0)
		fail(errno);
	if (pid == 0) {
		copy_pieces(STDIN_FILENO, fd);
		shutdown(fd, SHUT_WR);
		_exit(0);
	}
	copy_pieces(fd, STDOUT_FILENO);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	_exit(0);
}

_Noreturn void code_session_program(char **words)
{
	int count = 0;

	while (words[count])
		count++;
	prctl(PR_SET_NAME, "ballonet-code");
	if (count >= 5 && strcmp(words[0], "start") == 0)
		start_session(words + 1);
	if (count == 3 && strcmp(words[0], "connect") == 0)
		connect_session(words + 1);
	report_begin("session");
	report("", "the agent has no such program, or it takes other arguments");
	_exit(127);
}
