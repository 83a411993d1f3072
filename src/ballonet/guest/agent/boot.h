/* PID 1 only: mounting file systems, loading modules, and finding the host's port. */
#ifndef BALLONET_BOOT_H
#define BALLONET_BOOT_H

#include <stddef.h>
#include <stdint.h>

void boot(void);
int boot_open_port(void);
/* Loads the drivers of the devices that SETUP uses. A machine that is saved before has not seen what is in them. */
void boot_load_device_drivers(void);
/* The agent must respond while everything else starves: it is never chosen by the OOM killer, never swapped out, and
 * has the highest priority. */
void boot_protect_self(void);
/* Undoes this in a child. Locked memory is not inherited. */
void boot_unprotect_child(void);
/* Writes errno (u16), name and NUL for each module that could not be loaded. Returns the number of bytes. */
size_t boot_failed_modules(uint8_t *to, size_t room, uint16_t *count);

#endif
