/* Starting one process: the EXEC payload, the descriptors of the child, and what the child does until exec. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

enum { EXEC_FIXED_BYTES = 20, KEEP_ID = -1 };
enum { STEP_TERMINAL, STEP_USER, STEP_DIRECTORY, STEP_COMMAND };

/* musl's headers may predate it; the number is the same on every architecture. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
enum { MARK_CLOSE_ON_EXEC = 4 };

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const char *exec_failure_text(int step)
{
	switch (step) {
	case STEP_TERMINAL:
		return "cannot give it its terminal or pipes";
	case STEP_USER:
		return "cannot become its user and group";
	case STEP_DIRECTORY:
		return "cannot enter its working directory";
	default:
		return "cannot run it";
	}
}

bool take_words(char **words, uint16_t count, char **at, const char *end)
{
	for (uint16_t i = 0; i < count; i++) {
		char *nul = memchr(*at, '\0', (size_t)(end - *at));

		if (!nul)
			return false;
		words[i] = *at;
		*at = nul + 1;
	}
	words[count] = NULL;
	return true;
}

/* Reads an EXEC payload in place: the words point into it. False: it is malformed. */
bool exec_parse(uint8_t *payload, uint32_t size, struct exec_request *request)
{
	static char *directory[2], *arguments[MAX_WORDS + 1], *environment[MAX_WORDS + 1];
	uint16_t argument_count, environment_count;
	char *at;
	const char *end = (char *)payload + size;

	if (size < EXEC_FIXED_BYTES)
		return false;
	request->uid = get_u32(payload);
	request->gid = get_u32(payload + 4);
	request->flags = get_u16(payload + 8);
	request->rows = get_u16(payload + 10);
	request->columns = get_u16(payload + 12);
	argument_count = get_u16(payload + 14);
	environment_count = get_u16(payload + 16);
	request->group_count = get_u16(payload + 18);
	if (request->flags & ~(EXEC_TTY | EXEC_STDIN | EXEC_BUILTIN))
		return false;
	if (request->group_count > MAX_GROUPS || size < EXEC_FIXED_BYTES + 4U * request->group_count)
		return false;
	for (uint16_t i = 0; i < request->group_count; i++)
		request->groups[i] = get_u32(payload + EXEC_FIXED_BYTES + 4 * i);
	at = (char *)payload + EXEC_FIXED_BYTES + 4 * request->group_count;
	if (argument_count == 0 || argument_count > MAX_WORDS || environment_count > MAX_WORDS)
		return false;
	if (!take_words(directory, 1, &at, end) || !take_words(arguments, argument_count, &at, end) ||
	    !take_words(environment, environment_count, &at, end) || at != end)
		return false;
	request->directory = directory[0];
	request->arguments = arguments;
	request->environment = environment;
	return true;
}

static const char *path_of(char **environment)
{
	for (; *environment; environment++)
		if (strncmp(*environment, "PATH=", 5) == 0)
			return *environment + 5;
	return default_path;
}

/* Replaces the child by the command; returns errno if it cannot. A name without a slash is looked up in the
 * PATH that the command itself gets; an entry that exists but may not be run does not hide a later one. */
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
		/* An empty entry means the working directory (POSIX, "PATH"). */
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

static int change_user(const struct exec_request *request)
{
	if (request->uid == (uint32_t)KEEP_ID && request->gid == (uint32_t)KEEP_ID && request->group_count == 0)
		return 0;
	/* The agent's groups are root's: nobody else may keep them. */
	if (setgroups(request->group_count, request->groups) < 0)
		return errno;
	if (request->gid != (uint32_t)KEEP_ID && setgid(request->gid) < 0)
		return errno;
	if (request->uid != (uint32_t)KEEP_ID && setuid(request->uid) < 0)
		return errno;
	return 0;
}

static _Noreturn void give_up(int fail, int step, int error)
{
	struct exec_failure failure = {step, error};

	/* Smaller than PIPE_BUF into an empty pipe: whole or not at all, and never blocks. */
	if (write(fail, &failure, sizeof failure) < 0)
		_exit(126);
	_exit(127);
}

/* Nothing of the agent's stays open where no exec closes it. Closing `fail` says that the program runs. */
static _Noreturn void be_file_program(const struct exec_request *request, int fail)
{
	if (fail > 3)
		syscall(SYS_close_range, 3U, (unsigned)fail - 1, 0);
	syscall(SYS_close_range, (unsigned)fail + 1, ~0U, 0);
	close(fail);
	file_program(request->arguments);
}

static _Noreturn void be_child(const struct exec_request *request, const int standard[3], int fail)
{
	struct sigaction ordinary = {.sa_handler = SIG_DFL};
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
			give_up(fail, STEP_TERMINAL, errno);
	syscall(SYS_close_range, 3U, ~0U, MARK_CLOSE_ON_EXEC);
	if (request->flags & EXEC_TTY && ioctl(0, TIOCSCTTY, 0) < 0)
		give_up(fail, STEP_TERMINAL, errno);
	error = change_user(request);
	if (error)
		give_up(fail, STEP_USER, error);
	/* As the new user: it must be able to enter the directory itself. */
	if (chdir(*request->directory ? request->directory : "/") < 0)
		give_up(fail, STEP_DIRECTORY, errno);
	if (request->flags & EXEC_BUILTIN)
		be_file_program(request, fail);
	give_up(fail, STEP_COMMAND, run_command(request));
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
	/* So that the user may open its own terminal by name. Not fatal: the descriptors work without. */
	if (request->uid != (uint32_t)KEEP_ID && fchown(p->terminal, request->uid, (gid_t)-1) < 0)
		complain("%s: %s", name, strerror(errno));
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
		/* Only our end: the flag belongs to the open file, and the child's end is another one. */
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
	p->pid = fork();
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

/* Starts the child of `p`. Returns 0, or errno with whatever was opened left in `p` for its owner to close.
 * Whether the command itself could be run is told later by p->fail. */
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
