/* The guest's memory: statistics and pressure. */
#define _GNU_SOURCE
#include "memory.h"
#include "base.h"
#include "channel.h"
#include "trim.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char pressure_path[] = "/proc/pressure/memory";

/* Kept open, because opening a file may block under memory pressure. */
static int meminfo = -1, vmstat = -1, pressure = -1;
static int trigger = -1;   /* the pressure trigger, which exists as long as this is open */
static bool fired;         /* PRESSURE is due */

struct line {
	char *at;
	size_t left;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *to, const char *format, ...)
{
	va_list arguments;
	int size;

	va_start(arguments, format);
	size = vsnprintf(to->at, to->left, format, arguments);
	va_end(arguments);
	/* A line that does not fit is dropped. */
	if (size < 0 || (size_t)size >= to->left)
		return;
	to->at += size;
	to->left -= (size_t)size;
}

/* The content of a file of /proc. Empty if it cannot be read. */
static const char *slurp(int fd)
{
	static char text[32 * 1024];
	size_t used = 0;

	while (fd >= 0 && used < sizeof text - 1) {
		ssize_t got = pread(fd, text + used, sizeof text - 1 - used, (off_t)used);

		if (got <= 0)
			break;
		used += (size_t)got;
	}
	text[used] = '\0';
	return text;
}

struct wanted {
	const char *key, *name;
};

/* Adds the lines "KEY  NUMBER…" of `text` that are wanted, with their names in the protocol. */
static void add_numbers(struct line *to, const char *text, const struct wanted *wanted)
{
	while (*text) {
		for (const struct wanted *w = wanted; w->key; w++) {
			size_t length = strlen(w->key);

			if (strncmp(text, w->key, length) == 0 && text[length] == ' ')
				add(to, "%s %" PRIu64 "\n", w->name, (uint64_t)strtoull(text + length, NULL, 10));
		}
		text = strchrnul(text, '\n');
		text += *text == '\n';
	}
}

/* "some avg10=1.23 avg60=… avg300=… total=456" (Documentation/accounting/psi.rst). */
static void add_pressure(struct line *to, const char *text)
{
	while (*text) {
		char kind[5];
		unsigned whole10, centi10, whole60, centi60;
		uint64_t total;

		if (sscanf(text, "%4s avg10=%u.%2u avg60=%u.%2u avg300=%*s total=%" SCNu64, kind, &whole10,
			   &centi10, &whole60, &centi60, &total) == 6) {
			add(to, "psi_%s_total_us %" PRIu64 "\n", kind, total);
			add(to, "psi_%s_avg10_centi %u\n", kind, whole10 * 100 + centi10);
			add(to, "psi_%s_avg60_centi %u\n", kind, whole60 * 100 + centi60);
		}
		text = strchrnul(text, '\n');
		text += *text == '\n';
	}
}

size_t memory_stats(char *to, size_t room)
{
	static const struct wanted of_meminfo[] = {
		{"MemTotal:", "mem_total_kib"},	    {"MemFree:", "mem_free_kib"},
		{"MemAvailable:", "mem_available_kib"}, {"Cached:", "cached_kib"},
		{"Buffers:", "buffers_kib"},	    {"SReclaimable:", "sreclaimable_kib"},
		{"SwapTotal:", "swap_total_kib"},	    {"SwapFree:", "swap_free_kib"},
		{"Inactive(file):", "inactive_file_kib"}, {NULL, NULL},
	};
	static const struct wanted of_vmstat[] = {
		{"pgmajfault", "pgmajfault"}, {"oom_kill", "oom_kill"}, {"pswpin", "pswpin"},
		{"pswpout", "pswpout"},	      {"workingset_refault_file", "refault_file"},
		{NULL, NULL},
	};
	struct line line = {to, room};

	add_numbers(&line, slurp(meminfo), of_meminfo);
	add_numbers(&line, slurp(vmstat), of_vmstat);
	add_pressure(&line, slurp(pressure));
	add(&line, "trims %" PRIu32 "\n", trim_count());
	add(&line, "trimmed_kib %" PRIu64 "\n", trim_reclaimed_kib());
	add(&line, "uptime_ms %" PRIu64 "\n", uptime_ms());
	return (size_t)(line.at - to);
}

void memory_init(void)
{
	meminfo = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	vmstat = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
	pressure = open(pressure_path, O_RDONLY | O_CLOEXEC);
	trim_init();
}

uint32_t memory_features(void)
{
	uint32_t features = pressure >= 0 ? FEATURE_PRESSURE : 0;

	return features | trim_features();
}

static void stop_watching(void)
{
	close_fd(&trigger);
	fired = false;
}

/* The kernel wakes this process at most once per window (psi.rst, "Monitoring for pressure thresholds"), so that
 * nothing is polled. */
int memory_watch(uint32_t stall_us, uint32_t window_us)
{
	char text[64];
	int error = 0;

	stop_watching();
	if (stall_us == 0)
		return 0;
	trigger = open(pressure_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (trigger < 0)
		return errno;
	snprintf(text, sizeof text, "some %u %u", (unsigned)stall_us, (unsigned)window_us);
	/* The kernel expects the NUL, too. */
	if (write(trigger, text, strlen(text) + 1) < 0) {
		error = errno;
		stop_watching();
	}
	return error;
}

void memory_want(struct pollfd *want)
{
	*want = (struct pollfd){.fd = trigger, .events = POLLPRI};
}

void memory_ready(short revents)
{
	if (revents & POLLERR) {
		complain("the kernel removed the pressure trigger");
		stop_watching();
	} else if (revents & POLLPRI) {
		fired = true;
	}
}

void memory_settle(void)
{
	uint8_t payload[4 + 4096];
	uint32_t error;
	size_t size;

	if (channel_data_room() >= sizeof payload && trim_ended(&error)) {
		put_u32(payload, error);
		size = memory_stats((char *)payload + 4, sizeof payload - 4);
		channel_send(T_TRIM_DONE, 0, payload, 4 + (uint32_t)size);
	}
	/* Triggers that could not be sent in time are merged into one notice. */
	if (fired && channel_data_room() >= sizeof payload) {
		size = memory_stats((char *)payload, sizeof payload);
		channel_send(T_PRESSURE, 0, payload, (uint32_t)size);
		fired = false;
	}
}

void memory_forget(void)
{
	stop_watching();
	trim_forget();
}
