/* Starting and ending the process of a code session. Its orphans become children of the session (a subreaper), so that
 * they can be found. */
#define _GNU_SOURCE
#include "code_kernel.h"
#include "base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHANNEL = 3, HIGH = 10, WAIT_US = 10000, WAITS = 500 };

static _Noreturn void be_kernel(char **command, const int ends[3], int fail)
{
	int channel = fcntl(ends[2], F_DUPFD_CLOEXEC, HIGH), told = fcntl(fail, F_DUPFD_CLOEXEC, HIGH), error = 0;
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (channel < 0 || told < 0 || dup2(ends[0], STDOUT_FILENO) < 0 || dup2(ends[1], STDERR_FILENO) < 0 ||
	    dup2(channel, CHANNEL) < 0)
		error = errno;
	if (!error) {
		execvp(command[0], command);
		error = errno;
	}
	if (write(told, &error, sizeof error) < 0)
		_exit(126);
	_exit(127);
}

/* Our end of a pipe or a socket must not block; the other end is another open file. */
static int keep(const int pair[2], int *ours, int *theirs)
{
	*ours = pair[0];
	*theirs = pair[1];
	return fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0 ? errno : 0;
}

int code_kernel_start(struct code_kernel *kernel, char **command)
{
	int pair[2], theirs[3] = {-1, -1, -1}, fail[2] = {-1, -1}, error = 0;

	kernel->channel = kernel->output[0] = kernel->output[1] = -1;
	for (int i = 0; i < 2 && !error; i++)
		error = pipe2(pair, O_CLOEXEC) < 0 ? errno : keep(pair, &kernel->output[i], &theirs[i]);
	if (!error)
		error = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0
				? errno
				: keep(pair, &kernel->channel, &theirs[2]);
	if (!error && pipe2(fail, O_CLOEXEC) < 0)
		error = errno;
	if (!error) {
		kernel->pid = fork();
		if (kernel->pid == 0)
			be_kernel(command, theirs, fail[1]);
		if (kernel->pid < 0)
			error = errno;
	}
	for (int i = 0; i < 3; i++)
		close_fd(&theirs[i]);
	close_fd(&fail[1]);
	/* Ends when exec has closed the other end. */
	if (!error && read(fail[0], &error, sizeof error) == sizeof error)
		waitpid(kernel->pid, NULL, 0);
	close_fd(&fail[0]);
	kernel->alive = !error;
	if (error) {
		kernel->pid = 0;
		code_kernel_end(kernel);
	}
	return error;
}

void code_kernel_interrupt(const struct code_kernel *kernel)
{
	if (kernel->alive)
		kill(-kernel->pid, SIGINT);
}

void code_kernel_reap(struct code_kernel *kernel)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != kernel->pid || !kernel->alive)
			continue;
		kernel->alive = false;
		kernel->status = status;
	}
}

static bool is_child(const char *entry)
{
	char path[300], text[600], *after;
	FILE *file;
	size_t size;
	int parent = 0;

	snprintf(path, sizeof path, "/proc/%s/stat", entry);
	file = fopen(path, "re");
	if (!file)
		return false;
	size = fread(text, 1, sizeof text - 1, file);
	fclose(file);
	text[size] = '\0';
	after = strrchr(text, ')'); /* the name may contain anything */
	return after && sscanf(after + 1, " %*c %d", &parent) == 1 && parent == getpid();
}

static void kill_children(void)
{
	DIR *all = opendir("/proc");
	struct dirent *entry;

	if (!all)
		return;
	while ((entry = readdir(all))) {
		int pid = atoi(entry->d_name);

		if (pid > 1 && is_child(entry->d_name))
			kill(pid, SIGKILL);
	}
	closedir(all);
}

void code_kernel_end(struct code_kernel *kernel)
{
	if (kernel->pid > 0 && kernel->alive)
		kill(-kernel->pid, SIGKILL);
	/* When a child has died, its own children are ours. One that cannot be killed is not waited for forever. */
	for (int waits = 0; waits < WAITS; waits++) {
		kill_children();
		code_kernel_reap(kernel);
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			break;
		usleep(WAIT_US);
	}
	kernel->alive = false;
	close_fd(&kernel->channel);
	close_fd(&kernel->output[0]);
	close_fd(&kernel->output[1]);
}
