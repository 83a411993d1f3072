/* PID 1 only: from the kernel's first call to a machine with its file systems and modules. */
#ifndef BALLONET_BOOT_H
#define BALLONET_BOOT_H

#include <stddef.h>
#include <stdint.h>

void boot(void);
int boot_open_port(void);
void boot_protect_self(void);
void boot_unprotect_child(void);
/* Appends "errno (u16), name, NUL" per module that could not be loaded; returns the bytes used. */
size_t boot_failed_modules(uint8_t *to, size_t room, uint16_t *count);

#endif
