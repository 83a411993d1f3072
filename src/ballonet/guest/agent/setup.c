/* PID 1 only: the root, the mounts and the network of the machine (SETUP).
 *
 * docs/agent.md describes the steps and their arguments. They run once, before any process, and may block. The first
 * step that fails ends the setup, unless it is optional: a guest can run without its /etc/hosts. */
#define _GNU_SOURCE
#include "setup.h"
#include "base.h"
#include "boot.h"
#include "devices.h"
#include "new_file.h"
#include "paths.h"
#include "root.h"
#include "wire.h"
#include "words.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Documentation/filesystems/ext4, "Ioctl": grow to this number of blocks. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

enum { EXT4_FEATURE_INCOMPAT_64BIT = 0x80 };
enum { MAX_STEP_WORDS = 4 };

static bool done;
static const char *failed_at; /* the directory that made a step fail; NULL: none, or one of its arguments */

static int mount_new(const char *kind, const char *source, const char *where, unsigned long flags, const char *options)
{
	int error = make_directories(where);

	if (error)
		return error;
	return mount(source, where, kind, flags, options) < 0 ? errno : 0;
}

static int find_disk(const char *serial, char device[NAME_MAX + 8])
{
	return find_device("/sys/block", "serial", serial, device) ? 0 : ENODEV;
}

/* The number of blocks of an ext4, from its superblock (Documentation/filesystems/ext4, "The Super Block"). */
static int count_blocks(int disk, uint64_t *blocks)
{
	uint8_t super[1024];

	errno = EIO; /* for a short read, which sets none */
	if (pread(disk, super, sizeof super, 1024) != (ssize_t)sizeof super)
		return errno;
	*blocks = get_u32(super + 0x04);
	if (get_u32(super + 0x60) & EXT4_FEATURE_INCOMPAT_64BIT)
		*blocks |= (uint64_t)get_u32(super + 0x150) << 32;
	return 0;
}

/* Grows the file system at `where` to the size of its device, which the host may have enlarged. */
static int fill_device(const char *where, const char *device)
{
	int fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), disk = open(device, O_RDONLY | O_CLOEXEC);
	struct statfs have;
	uint64_t bytes, blocks, has = 0;
	int error = 0;

	if (fd < 0 || disk < 0 || fstatfs(fd, &have) < 0 || ioctl(disk, BLKGETSIZE64, &bytes) < 0) {
		error = errno;
	} else {
		blocks = bytes / (uint64_t)have.f_bsize;
		error = count_blocks(disk, &has);
		if (!error && blocks > has && ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks) < 0)
			error = errno;
		/* After an error, as on a full host, ext4 refuses to grow until it is checked. It is used as it is. */
		if (error == EPERM) {
			complain("%s has had an error: not resized", device);
			error = 0;
		}
	}
	if (disk >= 0)
		close(disk);
	if (fd >= 0)
		close(fd);
	return error;
}

static int mount_writable(const char *serial, const char *where)
{
	char device[NAME_MAX + 8];
	int error = find_disk(serial, device);

	if (error)
		return error;
	/* discard: deleted files free space on the host. */
	error = mount_new("ext4", device, where, MS_NOATIME, "discard");
	return error ? error : fill_device(where, device);
}

/* root KIND IMAGE DISK: a read-only file system, and a writable one over it. Disks are given by serial number. */
static int step_root(char **words)
{
	char device[NAME_MAX + 8];
	int error = find_disk(words[1], device);

	if (!error)
		error = mount_new(words[0], device, "/mnt/image", MS_RDONLY | MS_NOATIME, NULL);
	if (error)
		return error;
	error = mount_writable(words[2], "/mnt/disk");
	if (error)
		return error;
	if ((mkdir("/mnt/disk/upper", 0755) < 0 && errno != EEXIST) ||
	    (mkdir("/mnt/disk/work", 0700) < 0 && errno != EEXIST))
		return errno;
	error = mount_new("overlay", "overlay", "/mnt/root", MS_NOATIME,
			  "lowerdir=/mnt/image,upperdir=/mnt/disk/upper,workdir=/mnt/disk/work");
	return error ? error : root_switch("/mnt/root", false, &failed_at);
}

/* memory OPTIONS: copies the initramfs to a tmpfs. The kernel's first file system has no size that df could show. */
static int step_memory(char **words)
{
	int error = mount_new("tmpfs", "tmpfs", "/mnt/root", 0, words[0]);

	if (!error)
		error = root_copy("/mnt/root");
	return error ? error : root_switch("/mnt/root", true, &failed_at);
}

/* disk SERIAL PATH */
static int step_disk(char **words)
{
	return mount_writable(words[0], words[1]);
}

/* volume TAG PATH ro|rw: the host enforces read-only; here it gives earlier errors. */
static int step_volume(char **words)
{
	return mount_new("virtiofs", words[0], words[1], strcmp(words[2], "ro") == 0 ? MS_RDONLY : 0, NULL);
}

/* tmpfs PATH OPTIONS */
static int step_tmpfs(char **words)
{
	return mount_new("tmpfs", "tmpfs", words[0], MS_NOSUID | MS_NODEV, words[1]);
}

/* hostname NAME */
static int step_hostname(char **words)
{
	return sethostname(words[0], strlen(words[0])) < 0 ? errno : 0;
}

/* Replaces the file `name` of the directory `above`. Returns errno. */
static int replace_file(int above, const char *name, const char *content)
{
	size_t size = strlen(content);
	struct new_file file;
	int error = new_file_create(&file, above);

	if (error)
		return error;
	errno = EIO; /* for a short write, which sets none */
	if (write(file.fd, content, size) != (ssize_t)size || fchmod(file.fd, 0644) < 0) {
		error = errno;
		new_file_discard(&file);
		return error;
	}
	return new_file_commit(&file, name);
}

/* file PATH CONTENT: replaces a file, a link or an empty directory. */
static int step_file(char **words)
{
	const char *name = strrchr(words[0], '/') + 1;
	char directory[PATH_MAX];
	int error = make_parents(words[0]), above;

	if (error)
		return error;
	snprintf(directory, sizeof directory, "%.*s", (int)(name - words[0]), words[0]);
	above = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (above < 0)
		return errno;
	unlinkat(above, name, AT_REMOVEDIR);
	error = replace_file(above, name, words[1]);
	close(above);
	return error;
}

static bool is_network(const char *entry)
{
	return strcmp(entry, "lo") != 0;
}

static struct sockaddr_in internet(in_addr_t address)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
}

/* network ADDRESS MASK GATEWAY: configures the only network interface. */
static int step_network(char **words)
{
	char name[NAME_MAX + 1];
	struct ifreq request = {0};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct sockaddr_in address = internet(inet_addr(words[0])), mask = internet(inet_addr(words[1]));
	struct sockaddr_in gateway = internet(inet_addr(words[2])), anywhere = internet(INADDR_ANY);
	int fd, error = 0;

	if (!await_entry("/sys/class/net", is_network, name))
		return ENODEV;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	snprintf(request.ifr_name, IFNAMSIZ, "%.*s", IFNAMSIZ - 1, name);
	memcpy(&request.ifr_addr, &address, sizeof address);
	if (ioctl(fd, SIOCSIFADDR, &request) < 0)
		error = errno;
	memcpy(&request.ifr_netmask, &mask, sizeof mask);
	if (!error && ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		error = errno;
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (!error && ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		error = errno;
	memcpy(&route.rt_dst, &anywhere, sizeof anywhere);
	memcpy(&route.rt_genmask, &anywhere, sizeof anywhere);
	memcpy(&route.rt_gateway, &gateway, sizeof gateway);
	if (!error && ioctl(fd, SIOCADDRT, &route) < 0)
		error = errno;
	close(fd);
	return error;
}

static const struct step {
	const char *name;
	uint16_t words;
	int (*run)(char **words);
	bool optional; /* a failure is reported, and does not end the setup */
	bool again;    /* also for a machine that was set up, and restored with another name */
} steps[] = {
	{"root", 3, step_root, false, false},	  {"memory", 1, step_memory, false, false},
	{"disk", 2, step_disk, false, false},	  {"volume", 3, step_volume, false, false},
	{"tmpfs", 2, step_tmpfs, false, false},	  {"hostname", 1, step_hostname, false, true},
	{"file", 2, step_file, true, true},	  {"network", 3, step_network, false, false},
};

static const struct step *find_step(const char *name, uint16_t words)
{
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
		if (strcmp(steps[i].name, name) == 0 && steps[i].words == words)
			return &steps[i];
	return NULL;
}

/* Adds "STEP ARGUMENT PATH: reason" to `text`. */
static void describe(char **words, int error, char text[MAX_ERROR_TEXT])
{
	size_t used = strlen(text);
	const char *path = words[1][0] != '/' && words[2] && words[2][0] == '/' ? words[2] : failed_at;
	char line[MAX_ERROR_TEXT];

	snprintf(line, sizeof line, "%s %.200s%s%.200s: %s", words[0], words[1], path ? " " : "", path ? path : "",
		 strerror(error));
	snprintf(text + used, MAX_ERROR_TEXT - used, "%s%s", used > 0 ? "; " : "", line);
	complain("setup failed: %s", line);
}

int setup_run(uint8_t *payload, uint32_t size, bool again, char text[MAX_ERROR_TEXT])
{
	char *at = (char *)payload, *end = at + size;

	*text = '\0';
	if (!is_init || done != again) {
		snprintf(text, MAX_ERROR_TEXT, "%s", is_init ? "the machine is already set up" : "not PID 1");
		return is_init ? EBUSY : EPERM;
	}
	if (!done)
		boot_load_device_drivers();
	done = true;
	while (at < end) {
		char *words[MAX_STEP_WORDS + 1];
		uint16_t count;
		const struct step *step;
		int error;

		if (end - at < 2)
			return -1;
		count = get_u16((uint8_t *)at);
		at += 2;
		if (count < 1 || count > MAX_STEP_WORDS || !take_words(words, count, &at, end))
			return -1;
		step = find_step(words[0], count - 1);
		if (!step || (again && !step->again))
			return -1;
		failed_at = NULL;
		error = step->run(words + 1);
		if (error && !step->optional)
			*text = '\0';
		if (error)
			describe(words, error, text);
		if (error && !step->optional)
			return error;
	}
	return 0;
}
