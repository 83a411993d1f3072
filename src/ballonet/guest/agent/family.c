/* A process and everything that it started, as a unit that can be killed.
 *
 * If the agent is PID 1, each process gets its own cgroup. Its descendants stay in it, whatever sessions they create
 * and whichever parents end, unless they are root and move elsewhere. It has no controllers, so that it costs little
 * and limits nothing. Without cgroups, all processes are searched for descendants and members of their sessions; a
 * process that was orphaned before in a session of its own is not found. */
#define _GNU_SOURCE
#include "family.h"
#include "base.h"
#include "text_file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* musl's headers may predate it; the number is the same on every architecture. */
#ifndef SYS_clone3
#define SYS_clone3 435
#endif

#define CLONE_INTO_CGROUP_FLAG 0x200000000ULL /* linux/sched.h */

enum { NAME_BYTES = 32, SWEEP_FROM = 64, MAX_SEEN = 64 * 1024, MAX_SESSIONS = 64, PASSES = 4 };

static const char directory[] = "ballonet"; /* below the root of the hierarchy */

static int hierarchy = -1;
static uint32_t last;	  /* the number of the last family */
static uint32_t left;	  /* families that were not empty when their process ended */
static uint32_t sweep_at = SWEEP_FROM;

void family_init(void)
{
	if (is_init)
		hierarchy = open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void name_of(uint32_t family, const char *rest, char name[NAME_BYTES])
{
	snprintf(name, NAME_BYTES, "%s/%u%s", directory, (unsigned)family, rest);
}

/* Removes the families that are empty now. A stale one costs the guest a few KiB, so that this is done only when there
 * are twice as many as were in use the last time. */
static void sweep(void)
{
	int fd = openat(hierarchy, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *entries = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!entries && fd >= 0)
		close(fd);
	left = 0;
	while (entries && (entry = readdir(entries)))
		/* EBUSY: it is in use. */
		if (isdigit((unsigned char)*entry->d_name) && unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0)
			left++;
	if (entries)
		closedir(entries);
	sweep_at = left * 2 < SWEEP_FROM ? SWEEP_FROM : left * 2;
}

/* Creates a cgroup. Returns its descriptor, or -1. */
static int make_family(uint32_t *family)
{
	char name[NAME_BYTES];

	if (left >= sweep_at)
		sweep();
	*family = ++last == 0 ? ++last : last;
	name_of(*family, "", name);
	if (mkdirat(hierarchy, name, 0755) < 0 &&
	    (errno != ENOENT || mkdirat(hierarchy, directory, 0755) < 0 || mkdirat(hierarchy, name, 0755) < 0))
		return -1;
	return openat(hierarchy, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

pid_t family_fork(uint32_t *family)
{
	/* struct clone_args of linux/sched.h, up to `cgroup` */
	struct {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
			set_tid_size, cgroup;
	} arguments = {.flags = CLONE_INTO_CGROUP_FLAG, .exit_signal = SIGCHLD};
	int group = hierarchy < 0 ? -1 : make_family(family);

	if (group >= 0) {
		pid_t pid;

		/* Forking into it is cheap. Moving a process makes the kernel wait for all processors. */
		arguments.cgroup = (uint64_t)group;
		pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
		if (pid == 0)
			return 0;
		close(group);
		if (pid > 0)
			return pid;
		family_leave(*family);
	}
	*family = 0;
	return fork();
}

void family_leave(uint32_t family)
{
	char name[NAME_BYTES];

	name_of(family, "", name);
	if (family != 0 && unlinkat(hierarchy, name, AT_REMOVEDIR) < 0)
		left++;
}

static bool kill_cgroup(uint32_t family)
{
	char name[NAME_BYTES];
	int fd;
	bool done;

	name_of(family, "/cgroup.kill", name);
	fd = openat(hierarchy, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	done = write(fd, "1", 1) == 1;
	close(fd);
	return done;
}

struct seen {
	pid_t pid, parent, session;
	bool member;
};

/* Reads /proc/PID/stat (proc(5)). The name in it may contain any character, and ends with the last ')'. */
static bool read_process(pid_t pid, struct seen *process)
{
	char path[32], text[512];
	char *after;
	int parent, session;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	read_text(path, text, sizeof text);
	after = strrchr(text, ')');
	if (!after || after[1] == '\0' || after[2] == 'Z' || after[2] == 'X' ||
	    sscanf(after + 2, "%*c %d %*d %d", &parent, &session) != 2)
		return false;
	*process = (struct seen){.pid = pid, .parent = parent, .session = session};
	return true;
}

static size_t read_processes(struct seen *all)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	size_t count = 0;

	while (proc && count < MAX_SEEN && (entry = readdir(proc))) {
		pid_t pid = isdigit((unsigned char)*entry->d_name) ? (pid_t)atol(entry->d_name) : 0;

		if (pid > 1 && pid != getpid() && read_process(pid, &all[count]))
			count++;
	}
	if (proc)
		closedir(proc);
	return count;
}

/* The entries of /proc are sorted by number. */
static const struct seen *find_seen(const struct seen *all, size_t count, pid_t pid)
{
	size_t low = 0;

	while (low < count) {
		size_t middle = low + (count - low) / 2;

		if (all[middle].pid == pid)
			return &all[middle];
		if (all[middle].pid < pid)
			low = middle + 1;
		else
			count = middle;
	}
	return NULL;
}

/* Marks the leader's descendants and the members of their sessions: a shell with job control puts its jobs into their
 * own process groups. `sessions` are the sessions of members that were found before. */
static void mark_members(struct seen *all, size_t count, pid_t sessions[MAX_SESSIONS], int *known)
{
	for (bool more = true; more;) {
		more = false;
		for (size_t i = 0; i < count; i++) {
			struct seen *one = &all[i];
			const struct seen *parent = find_seen(all, count, one->parent);
			const struct seen *head = find_seen(all, count, one->session);

			if (one->member)
				continue;
			one->member = (parent && parent->member) || (head && head->member);
			for (int old = 0; old < *known && !one->member; old++)
				one->member = one->session == sessions[old] || one->parent == sessions[old];
			more |= one->member;
			if (one->member && one->session == one->pid && *known < MAX_SESSIONS)
				sessions[(*known)++] = one->pid;
		}
	}
}

/* Several passes, because processes may fork meanwhile. */
static void kill_found(pid_t leader)
{
	struct seen *all = calloc(MAX_SEEN, sizeof *all);
	pid_t sessions[MAX_SESSIONS] = {leader};
	int known = 1;

	for (int pass = 0; all && pass < PASSES; pass++) {
		size_t count = read_processes(all);
		bool found = false;

		mark_members(all, count, sessions, &known);
		for (size_t i = 0; i < count; i++)
			if (all[i].member)
				found |= kill(all[i].pid, SIGKILL) == 0;
		if (!found)
			break;
	}
	free(all);
}

void family_kill_all(void)
{
	if (is_init)
		kill(-1, SIGKILL);
	else
		kill_found(getpid());
}

void family_kill(pid_t leader, uint32_t family)
{
	if (family == 0 || !kill_cgroup(family))
		kill_found(leader);
	if (kill(-leader, SIGKILL) < 0)
		kill(leader, SIGKILL);
}
