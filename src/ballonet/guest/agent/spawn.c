/* Starting one process: the EXEC payload, the descriptors of the child, and the child until exec. */
#define _GNU_SOURCE
#include "spawn.h"
#include "base.h"
#include "boot.h"
#include "family.h"
#include "file_programs.h"
#include "paths.h"
#include "process_state.h"
#include "user.h"
#include "wire.h"
#include "words.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>

enum { EXEC_FIXED_BYTES = 16 };
enum { STEP_TERMINAL = 1, STEP_USER, STEP_DIRECTORY, STEP_COMMAND };

/* musl's headers may predate it; the number is the same on every architecture. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
enum { MARK_CLOSE_ON_EXEC = 4 };

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static uint64_t count_words(const char *at, const char *end)
{
	uint64_t count = 0;

	while ((at = memchr(at, '\0', (size_t)(end - at)))) {
		count++;
		at++;
	}
	return count;
}

bool exec_parse(uint8_t *payload, uint32_t size, struct exec_request *request)
{
	char *start[3];
	char *at = (char *)payload + EXEC_FIXED_BYTES;
	const char *end = (char *)payload + size;

	if (size <= EXEC_FIXED_BYTES || end[-1] != '\0')
		return false;
	request->flags = get_u16(payload);
	request->rows = get_u16(payload + 2);
	request->columns = get_u16(payload + 4);
	request->argument_count = get_u32(payload + 8);
	request->environment_count = get_u32(payload + 12);
	if (request->flags & ~(EXEC_TTY | EXEC_STDIN | EXEC_BUILTIN | EXEC_MAKE_DIRECTORY) || get_u16(payload + 6) != 0)
		return false;
	if (request->argument_count == 0 ||
	    count_words(at, end) != 2 + (uint64_t)request->argument_count + request->environment_count)
		return false;
	take_words(start, 2, &at, end);
	request->user = start[0];
	request->directory = start[1];
	request->words = at;
	request->words_end = end;
	return true;
}

/* Whether one of the variables begins with `start`. */
static bool is_set(char **environment, const char *start)
{
	for (; *environment; environment++)
		if (strncmp(*environment, start, strlen(start)) == 0)
			return true;
	return false;
}

/* Makes the arrays for exec. This is done in the child, so that the agent's memory does not grow. Adds HOME and
 * HOSTNAME unless they are set. Returns errno. */
static int list_words(struct exec_request *request, const char *home)
{
	uint32_t arguments = request->argument_count, variables = request->environment_count;
	char **words = calloc((size_t)arguments + variables + 4, sizeof *words);
	char *at = request->words;
	struct utsname machine;

	if (!words)
		return ENOMEM;
	request->arguments = words;
	request->environment = words + arguments + 1;
	take_words(request->arguments, arguments, &at, request->words_end);
	take_words(request->environment, variables, &at, request->words_end);
	if (uname(&machine) == 0 && !is_set(request->environment, "HOSTNAME=") &&
	    asprintf(&request->environment[variables++], "HOSTNAME=%s", machine.nodename) < 0)
		return ENOMEM;
	if (!is_set(request->environment, "HOME=") &&
	    asprintf(&request->environment[variables++], "HOME=%s", home) < 0)
		return ENOMEM;
	request->environment[variables] = NULL;
	return 0;
}

static const char *path_of(char **environment)
{
	for (; *environment; environment++)
		if (strncmp(*environment, "PATH=", 5) == 0)
			return *environment + 5;
	return default_path;
}

/* Executes the command. Returns errno if that fails. A name without a slash is searched in the PATH of the command. A
 * file that may not be executed does not hide a later one. */
static int run_command(const struct exec_request *request)
{
	const char *name = request->arguments[0], *path = path_of(request->environment);
	int result = ENOENT;

	if (strchr(name, '/')) {
		execve(name, request->arguments, request->environment);
		return errno;
	}
	if (*name == '\0')
		return ENOENT;
	for (;;) {
		const char *end = strchrnul(path, ':');
		char candidate[PATH_MAX];
		/* An empty entry is the working directory (POSIX, "PATH"). */
		int length = snprintf(candidate, sizeof candidate, "%.*s%s%s", (int)(end - path), path,
				      end > path ? "/" : "", name);

		if (length < (int)sizeof candidate) {
			execve(candidate, request->arguments, request->environment);
			if (errno == EACCES)
				result = EACCES;
			else if (errno != ENOENT && errno != ENOTDIR)
				return errno;
		}
		if (*end == '\0')
			return result;
		path = end + 1;
	}
}

/* An agent that is not root (--fd) can only run commands as its own user. */
static int change_user(const struct account *account)
{
	if (geteuid() != 0)
		return account->uid == geteuid() ? 0 : EPERM;
	if (setgroups(account->group_count, account->groups) < 0 || setgid(account->gid) < 0 ||
	    setuid(account->uid) < 0)
		return errno;
	return 0;
}

/* Lets the user open the standard streams by name (/dev/stdout is a link to /proc/self/fd/1), for which the kernel
 * checks permissions. A pipe can be opened only by processes that already have it open, so that it may be open to all
 * users: a command may change its user (su, gosu). A terminal has a name that others can see, so it belongs to the
 * user. */
static void own_streams(const struct account *account)
{
	for (int fd = 0; fd < 3; fd++) {
		struct stat status;

		if (fstat(fd, &status) < 0 || (!S_ISFIFO(status.st_mode) && !isatty(fd)))
			continue;
		/* Not fatal: the descriptors themselves work. */
		if (fchown(fd, account->uid, (gid_t)-1) < 0 || (S_ISFIFO(status.st_mode) && fchmod(fd, 0666) < 0))
			errno = 0;
	}
}

static _Noreturn void fail_with(int fail, int step, int error, const char *text)
{
	struct exec_failure failure = {.step = step, .error = error};

	snprintf(failure.text, sizeof failure.text, "%s", text);
	/* Smaller than PIPE_BUF into an empty pipe: whole or not at all, and never blocks. */
	if (write(fail, &failure, sizeof failure) < 0)
		_exit(126);
	_exit(127);
}

static __attribute__((format(printf, 4, 5))) _Noreturn void give_up(int fail, int step, int error, const char *format,
								    ...)
{
	char what[MAX_ERROR_TEXT - 64], text[MAX_ERROR_TEXT];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof what, format, arguments);
	va_end(arguments);
	snprintf(text, sizeof text, "%s: %s", what, strerror(error));
	fail_with(fail, step, error, text);
}

static void become_user(struct exec_request *request, int fail)
{
	static struct account account;
	char text[MAX_ERROR_TEXT];
	const char *directory = *request->directory ? request->directory : "/";
	int error;

	if (!user_find(request->user, &account, text))
		fail_with(fail, STEP_USER, ESRCH, text);
	error = list_words(request, account.home);
	if (error)
		give_up(fail, STEP_COMMAND, error, "cannot run it");
	own_streams(&account);
	/* As root, and owned by root, as in Docker. */
	error = request->flags & EXEC_MAKE_DIRECTORY ? make_directories(directory) : 0;
	if (error)
		give_up(fail, STEP_DIRECTORY, error, "cannot create the working directory %.300s", directory);
	error = change_user(&account);
	if (error)
		give_up(fail, STEP_USER, error, "cannot become user %.200s", request->user);
	/* As the new user, who must be able to enter the directory. */
	if (chdir(directory) < 0)
		give_up(fail, STEP_DIRECTORY, errno, "cannot enter the working directory %.300s", directory);
}

/* Closes all other descriptors, as exec would. Closing `fail` reports that the program is running. */
static _Noreturn void be_file_program(const struct exec_request *request, int fail)
{
	if (fail > 3)
		syscall(SYS_close_range, 3U, (unsigned)fail - 1, 0);
	syscall(SYS_close_range, (unsigned)fail + 1, ~0U, 0);
	close(fail);
	environ = request->environment;
	file_program(request->arguments);
}

static _Noreturn void be_child(const struct exec_request *asked, const int standard[3], int fail)
{
	struct sigaction ordinary = {.sa_handler = SIG_DFL};
	struct exec_request request = *asked;
	sigset_t none;
	int error;

	setsid();
	for (int number = 1; number <= 64; number++)
		sigaction(number, &ordinary, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	boot_unprotect_child();
	for (int fd = 0; fd < 3; fd++)
		if (dup2(standard[fd], fd) < 0)
			give_up(fail, STEP_TERMINAL, errno, "cannot set up its terminal or pipes");
	syscall(SYS_close_range, 3U, ~0U, MARK_CLOSE_ON_EXEC);
	if (request.flags & EXEC_TTY && ioctl(0, TIOCSCTTY, 0) < 0)
		give_up(fail, STEP_TERMINAL, errno, "cannot set up its terminal");
	become_user(&request, fail);
	if (request.flags & EXEC_BUILTIN)
		be_file_program(&request, fail);
	error = run_command(&request);
	if (error == E2BIG)
		fail_with(fail, STEP_COMMAND, error, "argument list too long");
	give_up(fail, STEP_COMMAND, error, "cannot run it");
}

static int open_terminal(struct process *p, const struct exec_request *request, int standard[3])
{
	struct winsize size = {.ws_row = request->rows, .ws_col = request->columns};
	char name[64];
	p->out[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (p->out[0] < 0 || grantpt(p->out[0]) < 0 || unlockpt(p->out[0]) < 0 ||
	    ptsname_r(p->out[0], name, sizeof name) != 0 || ioctl(p->out[0], TIOCSWINSZ, &size) < 0)
		return errno;
	if (p->has_stdin) {
		p->in = fcntl(p->out[0], F_DUPFD_CLOEXEC, 3);
		if (p->in < 0)
			return errno;
	}
	p->terminal = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (p->terminal < 0)
		return errno;
	standard[0] = standard[1] = standard[2] = p->terminal;
	return 0;
}

static int open_pipes(struct process *p, int standard[3])
{
	int ends[2];

	if (!p->has_stdin) {
		standard[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (standard[0] < 0)
			return errno;
	} else {
		if (pipe2(ends, O_CLOEXEC) < 0)
			return errno;
		standard[0] = ends[0];
		p->in = ends[1];
		fcntl(p->in, F_SETFL, O_NONBLOCK);
	}
	for (int i = 0; i < 2; i++) {
		if (pipe2(ends, O_CLOEXEC) < 0)
			return errno;
		p->out[i] = ends[0];
		standard[1 + i] = ends[1];
		/* Only this end: the child's end is another open file, with its own flag. */
		fcntl(p->out[i], F_SETFL, O_NONBLOCK);
	}
	return 0;
}

static int start_child(struct process *p, const struct exec_request *request, const int standard[3])
{
	int fail[2];

	if (pipe2(fail, O_CLOEXEC) < 0)
		return errno;
	fcntl(fail[0], F_SETFL, O_NONBLOCK);
	p->pid = family_fork(&p->family);
	if (p->pid == 0)
		be_child(request, standard, fail[1]);
	close(fail[1]);
	p->fail = fail[0];
	if (p->pid < 0) {
		p->pid = 0;
		return EAGAIN;
	}
	return 0;
}

int exec_spawn(struct process *p, const struct exec_request *request)
{
	int standard[3] = {-1, -1, -1};
	int error;

	if (p->has_stdin) {
		p->ring = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p->ring == MAP_FAILED) {
			p->ring = NULL;
			return ENOMEM;
		}
	}
	error = p->tty ? open_terminal(p, request, standard) : open_pipes(p, standard);
	if (error == 0)
		error = start_child(p, request, standard);
	for (int i = 0; i < 3 && !p->tty; i++)
		if (standard[i] >= 0)
			close(standard[i]);
	return error;
}
