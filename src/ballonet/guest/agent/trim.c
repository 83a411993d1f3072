/* Returning the guest's caches to the host on request, in a child process. */
#define _GNU_SOURCE
#include "trim.h"
#include "base.h"
#include "boot.h"
#include "text_file.h"
#include "wire.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	TRIM_SECONDS = 30,
	/* A gentle trim reclaims this much at a time, rests so that it uses a quarter of a processor at most, and ends after
	 * GENTLE_MS, or when other tasks used BUSY_PERCENT of a processor for WINDOW_MS. */
	SLICE_BYTES = 4 << 20,
	REST_FACTOR = 3,
	REST_LEAST_MS = 5,
	REST_MOST_MS = 500,
	WINDOW_MS = 200,
	BUSY_PERCENT = 25,
	GENTLE_MS = 8000,
};

static const char reclaim_path[] = "/sys/fs/cgroup/memory.reclaim";
static const char compact_path[] = "/proc/sys/vm/compact_memory";

static pid_t trimmer;            /* the child that trims; 0: none */
static bool ended;               /* trim_ended() is due */
static uint32_t ended_with;      /* its errno */
static uint32_t count;           /* trims since boot */
static uint64_t *reclaimed_kib;  /* shared with the child, which adds to it */

void trim_init(void)
{
	void *page = mmap(NULL, sizeof *reclaimed_kib, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	reclaimed_kib = page == MAP_FAILED ? NULL : page;
}

uint32_t trim_features(void)
{
	uint32_t features = 0;

	/* Not if this is not PID 1: the machine has other users (see trim_start). */
	if (is_init && access(reclaim_path, W_OK) == 0)
		features |= FEATURE_RECLAIM;
	if (is_init && access(compact_path, W_OK) == 0)
		features |= FEATURE_COMPACT;
	return features;
}

uint32_t trim_count(void)
{
	return count;
}

uint64_t trim_reclaimed_kib(void)
{
	return reclaimed_kib ? __atomic_load_n(reclaimed_kib, __ATOMIC_RELAXED) : 0;
}

/* File pages that the kernel has reclaimed since boot, in KiB; 0 if it does not count them. */
static uint64_t stolen_kib(void)
{
	static const char key[] = "\npgsteal_file ";
	static char text[32 * 1024];
	const char *at;

	read_text("/proc/vmstat", text, sizeof text);
	at = strstr(text, key);
	return at ? strtoull(at + sizeof key - 1, NULL, 10) * 4 : 0;
}

static int reclaim(uint64_t bytes)
{
	char text[32];
	uint64_t before = stolen_kib();
	int error;

	snprintf(text, sizeof text, "%" PRIu64, bytes);
	error = write_text(reclaim_path, text);
	if (reclaimed_kib)
		__atomic_fetch_add(reclaimed_kib, stolen_kib() - before, __ATOMIC_RELAXED);
	return error;
}

/* Processor time, in milliseconds: of the process `pid`, 0 if it is gone. */
static uint64_t process_ms(pid_t pid)
{
	struct timespec used = {0};
	clockid_t its_clock;

	if (clock_getcpuclockid(pid, &its_clock) == 0)
		clock_gettime(its_clock, &used);
	return (uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000;
}

struct activity {
	uint64_t at_ms, others_ms;
};

/* The processor time that has been used since boot, but by this process and by `worker`. */
static struct activity look(pid_t worker)
{
	struct activity now = {.at_ms = uptime_ms()};
	uint64_t user = 0, nice = 0, kernel = 0, irq = 0, softirq = 0;
	uint64_t ticks, per_second = (uint64_t)sysconf(_SC_CLK_TCK);
	char text[256];

	read_text("/proc/stat", text, sizeof text);
	sscanf(text, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64 " %" SCNu64, &user, &nice, &kernel, &irq,
	       &softirq);
	ticks = user + nice + kernel + irq + softirq;
	now.others_ms = ticks * 1000 / per_second - process_ms(0) - process_ms(worker);
	return now;
}

/* Whether other tasks were at work since `*since`, which moves on. Too short a time says nothing. */
static bool others_work(struct activity *since, pid_t worker)
{
	struct activity now = look(worker);
	uint64_t passed = now.at_ms - since->at_ms;
	int64_t used = (int64_t)(now.others_ms - since->others_ms);

	if (passed < WINDOW_MS)
		return false;
	*since = now;
	return used * 100 > (int64_t)passed * BUSY_PERCENT;
}

static void rest(uint64_t took_ms)
{
	uint64_t ms = took_ms * REST_FACTOR;

	ms = ms < REST_LEAST_MS ? REST_LEAST_MS : ms > REST_MOST_MS ? REST_MOST_MS : ms;
	usleep((useconds_t)ms * 1000);
}

/* Reclaims in small steps, whenever nothing else wants a processor. */
static int reclaim_slowly(uint64_t bytes, bool compact)
{
	while (bytes > 0) {
		uint64_t slice = bytes < SLICE_BYTES ? bytes : SLICE_BYTES;
		uint64_t before = uptime_ms();
		int error = reclaim(slice);

		if (error)
			return error;
		bytes -= slice;
		rest(uptime_ms() - before);
	}
	return compact ? write_text(compact_path, "1") : 0;
}

/* musl has the call only for threads. */
static int set_scheduler(pid_t pid, int policy)
{
	static const struct sched_param none = {0};

	return syscall(SYS_sched_setscheduler, pid, policy, &none) < 0 ? errno : 0;
}

/* Waits until `worker` has ended and stores its exit status; false after `ms`. SIGCHLD is blocked. */
static bool ended_within(pid_t worker, unsigned int ms, int *status)
{
	const struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	if (waitpid(worker, status, WNOHANG) == worker)
		return true;
	sigtimedwait(&child, NULL, &left);
	return waitpid(worker, status, WNOHANG) == worker;
}

/* Reclaims only while nothing else runs. EBUSY: the guest went to work.
 * A task of the lowest priority may not run for minutes once the guest works, so another one watches it. */
static int trim_gently(uint64_t bytes, bool compact)
{
	struct activity since;
	uint64_t began = uptime_ms();
	int error, status = 0;
	sigset_t child;
	pid_t worker;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	worker = fork();
	if (worker < 0)
		return errno;
	if (worker == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		error = set_scheduler(0, SCHED_IDLE);
		_exit(error ? error : reclaim_slowly(bytes, compact));
	}
	since = look(worker);
	while (!ended_within(worker, WINDOW_MS, &status)) {
		error = others_work(&since, worker) ? EBUSY : uptime_ms() - began > GENTLE_MS ? ETIMEDOUT : 0;
		if (!error)
			continue;
		/* It holds the kernel's locks until it has run once more. */
		set_scheduler(worker, SCHED_OTHER);
		kill(worker, SIGKILL);
		waitpid(worker, NULL, 0);
		return error;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

static int trim_at_once(uint64_t bytes, uint32_t flags)
{
	bool drop = flags & TRIM_DROP_CACHES;
	int error = 0, next;

	/* Only clean pages can be dropped. */
	if (flags & TRIM_SYNC)
		sync();
	if (bytes > 0) {
		error = reclaim(bytes);
		/* An older kernel, or no memory controller: drop all caches instead. */
		if (error == ENOENT || error == EACCES || error == EPERM) {
			error = 0;
			drop = true;
		}
	}
	if (drop) {
		next = write_text("/proc/sys/vm/drop_caches", "3");
		error = error ? error : next;
	}
	if (flags & TRIM_COMPACT) {
		next = write_text(compact_path, "1");
		error = error ? error : next;
	}
	return error;
}

bool trim_running(void)
{
	return trimmer > 0 || ended;
}

/* Trims in a child, because each step may take seconds. The reply is sent when the child has ended. */
void trim_start(uint64_t bytes, uint32_t flags)
{
	if (!is_init) {
		ended_with = EPERM;
		ended = true;
		return;
	}
	count++;
	trimmer = fork();
	if (trimmer == 0) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		boot_unprotect_child();
		/* A reclaim that finds nothing may run for minutes. The signal ends it. */
		alarm(TRIM_SECONDS);
		_exit(flags & TRIM_GENTLE ? trim_gently(bytes, flags & TRIM_COMPACT) : trim_at_once(bytes, flags));
	}
	if (trimmer < 0) {
		trimmer = 0;
		ended_with = (uint32_t)errno;
		ended = true;
	}
}

bool trim_reaped(pid_t pid, int status)
{
	if (trimmer <= 0 || pid != trimmer)
		return false;
	trimmer = 0;
	ended = true;
	ended_with = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : ETIMEDOUT;
	return true;
}

bool trim_ended(uint32_t *error)
{
	bool now = ended;

	*error = ended_with;
	ended = false;
	return now;
}

void trim_forget(void)
{
	trimmer = 0;
	ended = false;
}
