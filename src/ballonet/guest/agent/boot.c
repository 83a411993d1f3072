/* PID 1 only: mounting file systems, loading modules, and finding the host's port. */
#define _GNU_SOURCE
#include "boot.h"
#include "base.h"
#include "devices.h"
#include "end.h"
#include "text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

enum { MAX_FAILED = 64, MAX_MODULE_NAME = 64 };
/* Limits of open files of processes. The hard limit is the kernel's (fs.nr_open), as in Docker. The soft limit is
 * enough for servers, but not higher, because some programs close every possible descriptor one by one. */
enum { MAX_OPEN_FILES = 1024 * 1024, OPEN_FILES = 64 * 1024 };

static const char port_name[] = "org.ballonet.agent.0";

static struct {
	uint16_t error;
	char name[MAX_MODULE_NAME];
} failed[MAX_FAILED];
static uint16_t failed_count;

static void mount_at(const char *kind, const char *where, unsigned long flags, const char *options)
{
	mkdir(where, 0755);
	/* EBUSY: the kernel has mounted it. */
	if (mount(kind, where, kind, flags, options) < 0 && errno != EBUSY)
		complain("cannot mount %s at %s: %s", kind, where, strerror(errno));
}

static void link_at(const char *target, const char *where)
{
	if (symlink(target, where) < 0 && errno != EEXIST)
		complain("cannot create the link %s: %s", where, strerror(errno));
}

static void mount_all(void)
{
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=755");
	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
	mount_at("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755");
	mount_at("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_at("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	link_at("/proc/self/fd", "/dev/fd");
	link_at("/proc/self/fd/0", "/dev/stdin");
	link_at("/proc/self/fd/1", "/dev/stdout");
	link_at("/proc/self/fd/2", "/dev/stderr");
}

static void remember_failure(const char *path, int error)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

	complain("cannot load %s: %s", path, strerror(error));
	if (failed_count == MAX_FAILED)
		return;
	failed[failed_count].error = (uint16_t)error;
	snprintf(failed[failed_count].name, MAX_MODULE_NAME, "%s", name);
	failed_count++;
}

/* One module per line: an absolute path, optionally followed by a space and parameters. Dependencies come first. */
static void load_modules(const char *list_path)
{
	FILE *list = fopen(list_path, "re");
	char line[1024];

	if (!list) {
		if (errno != ENOENT)
			remember_failure(list_path, errno);
		return;
	}
	while (fgets(line, sizeof line, list)) {
		char *parameters;
		int fd;

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '\0')
			continue;
		parameters = strchrnul(line, ' ');
		if (*parameters)
			*parameters++ = '\0';
		fd = open(line, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			remember_failure(line, errno);
			continue;
		}
		if (syscall(SYS_finit_module, fd, parameters, 0) < 0 && errno != EEXIST)
			remember_failure(line, errno);
		close(fd);
	}
	fclose(list);
}

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	/* The kernel has not opened it if the initramfs has no such node. */
	for (int standard = 0; fd >= 0 && standard < 3; standard++)
		if (fcntl(standard, F_GETFD) < 0)
			dup2(fd, standard);
	if (fd > STDERR_FILENO)
		close(fd);
}

static void set_value(const char *path, const char *text)
{
	int error = write_text(path, text);

	if (error)
		complain("cannot write %s to %s: %s", text, path, strerror(error));
}

/* Sets how much memory the kernel keeps free. With transparent huge pages, the default is far higher, so that huge
 * pages can be made at any time (45 MiB in a guest of 1 GiB, and watermarks above that). In a guest that was shrunk,
 * this would be most of its memory. The formula is the kernel's for a system without huge pages: 4 times the square
 * root of the memory, in KiB, between 128 KiB and 256 MiB (mm/page_alloc.c). */
static void set_reserves(void)
{
	struct sysinfo memory;
	unsigned long kib, root = 0;
	char text[24];

	if (sysinfo(&memory) < 0)
		return;
	kib = memory.totalram / 1024 * memory.mem_unit;
	while ((root + 1) * (root + 1) <= kib)
		root++;
	kib = 4 * root;
	if (kib < 128)
		kib = 128;
	if (kib > 256 * 1024)
		kib = 256 * 1024;
	snprintf(text, sizeof text, "%lu", kib);
	set_value("/proc/sys/vm/min_free_kbytes", text);
	/* Since Linux 6.7, lists of free pages per processor grow up to an eighth of the memory, and take some ten
	 * seconds to drain. This memory is free, but neither counted as available nor reported to the host. */
	set_value("/proc/sys/vm/percpu_pagelist_high_fraction", "256");
}

/* Programs expect 127.0.0.1 even where there is no network. */
static void raise_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		complain("cannot bring up the loopback interface: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

void boot(void)
{
	umask(022);
	if (chdir("/") < 0)
		complain("cannot change to /: %s", strerror(errno));
	mount_all();
	open_console();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	/* Ctrl-Alt-Del from the engine's monitor is a signal to this process, not a reset. */
	reboot(RB_DISABLE_CAD);
	if (sethostname("sandbox", 7) < 0)
		complain("cannot set the host name: %s", strerror(errno));
	set_reserves();
	raise_loopback();
	load_modules("/etc/ballonet/modules");
}

void boot_load_device_drivers(void)
{
	load_modules("/etc/ballonet/device-modules");
}

void boot_protect_self(void)
{
	struct rlimit files = {.rlim_cur = MAX_OPEN_FILES, .rlim_max = MAX_OPEN_FILES};
	struct rlimit processes = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

	set_value("/proc/self/oom_score_adj", "-1000");
	/* Mapped memory becomes resident now; later mappings (the input rings of processes) when they are touched. */
	if (mlockall(MCL_CURRENT) < 0 || mlockall(MCL_FUTURE | MCL_ONFAULT) < 0)
		complain("cannot lock memory: %s", strerror(errno));
	if (setpriority(PRIO_PROCESS, 0, -20) < 0)
		complain("cannot raise the priority: %s", strerror(errno));
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		complain("cannot raise the limit of open files: %s", strerror(errno));
	/* The limit of the machine (kernel.threads-max) is enough, as in Docker. */
	if (setrlimit(RLIMIT_NPROC, &processes) < 0)
		complain("cannot raise the limit of processes: %s", strerror(errno));
}

void boot_unprotect_child(void)
{
	struct rlimit files;

	if (!is_init)
		return;
	/* Failures are harmless, and not worth a line on the console for each child. */
	write_text("/proc/self/oom_score_adj", "0");
	setpriority(PRIO_PROCESS, 0, 0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > OPEN_FILES) {
		files.rlim_cur = OPEN_FILES;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

size_t boot_failed_modules(uint8_t *to, size_t room, uint16_t *count)
{
	size_t used = 0;

	*count = 0;
	for (uint16_t i = 0; i < failed_count; i++) {
		size_t length = strlen(failed[i].name) + 1;

		if (used + 2 + length > room)
			break;
		put_u16(to + used, failed[i].error);
		memcpy(to + used + 2, failed[i].name, length);
		used += 2 + length;
		*count = (uint16_t)(i + 1);
	}
	return used;
}

int boot_open_port(void)
{
	char path[NAME_MAX + 8];
	int fd;

	if (!find_device("/sys/class/virtio-ports", "name", port_name, path)) {
		complain("no virtio-serial port named %s after %d s", port_name, DEVICE_WAIT_MS / 1000);
		agent_end(END_FAILED);
	}
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		complain("cannot open %s: %s", path, strerror(errno));
		agent_end(END_FAILED);
	}
	return fd;
}
