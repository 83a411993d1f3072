/* PID 1 only: devices, which appear some time after their drivers were loaded: first in /sys, then in /dev.
 *
 * The directory is read every few milliseconds during boot, and never again. That is simpler than following the
 * kernel's device events, and misses nothing. */
#define _GNU_SOURCE
#include "devices.h"
#include "base.h"
#include "paths.h"
#include "text_file.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEVICE_PAUSE_MS = 5 };

static struct {
	const char *class, *attribute, *value;
} wanted;

bool await_entry(const char *directory, bool (*fits)(const char *entry), char found[NAME_MAX + 1])
{
	const struct timespec pause = {.tv_nsec = DEVICE_PAUSE_MS * 1000000L};
	int64_t deadline = now_ms() + DEVICE_WAIT_MS;

	for (;;) {
		DIR *entries = opendir(directory);
		struct dirent *entry = NULL;

		while (entries && (entry = next_entry(entries)) && !fits(entry->d_name))
			;
		if (entry)
			snprintf(found, NAME_MAX + 1, "%s", entry->d_name);
		if (entries)
			closedir(entries);
		if (entry || now_ms() >= deadline)
			return entry;
		nanosleep(&pause, NULL);
	}
}

static bool is_wanted(const char *entry)
{
	char path[NAME_MAX + 64], value[64];

	snprintf(path, sizeof path, "%s/%s/%s", wanted.class, entry, wanted.attribute);
	read_text(path, value, sizeof value);
	value[strcspn(value, "\n")] = '\0';
	snprintf(path, sizeof path, "/dev/%s", entry);
	return strcmp(value, wanted.value) == 0 && access(path, F_OK) == 0;
}

bool find_device(const char *class, const char *attribute, const char *value, char path[NAME_MAX + 8])
{
	char name[NAME_MAX + 1];

	wanted.class = class;
	wanted.attribute = attribute;
	wanted.value = value;
	if (!await_entry(class, is_wanted, name))
		return false;
	snprintf(path, NAME_MAX + 8, "/dev/%s", name);
	return true;
}
