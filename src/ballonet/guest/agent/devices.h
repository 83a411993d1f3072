/* PID 1 only: devices, which appear some time after their drivers were loaded. */
#ifndef BALLONET_DEVICES_H
#define BALLONET_DEVICES_H

#include <limits.h>
#include <stdbool.h>

enum { DEVICE_WAIT_MS = 10 * 1000 };

/* An entry of `directory` for which `fits` is true; waits up to DEVICE_WAIT_MS. False: there is none. */
bool await_entry(const char *directory, bool (*fits)(const char *entry), char found[NAME_MAX + 1]);
/* Finds the device of a class, a directory of /sys, whose `attribute` has this value; waits as long.
 * `path` gets its node. False: there is none. */
bool find_device(const char *class, const char *attribute, const char *value, char path[NAME_MAX + 8]);

#endif
