/* Basic functions of all modules: clock, descriptors, messages, little-endian fields. */
#ifndef BALLONET_BASE_H
#define BALLONET_BASE_H

#include <stdbool.h>
#include <stdint.h>

extern bool is_init; /* whether this process is PID 1 */
int64_t now_ms(void);
/* Milliseconds since the kernel started. */
uint64_t uptime_ms(void);
/* Closes a descriptor that is open, and sets it to -1. */
void close_fd(int *fd);
/* Writes one line to the console (PID 1) or to standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* little-endian fields, at any alignment */
uint16_t get_u16(const uint8_t *from);
uint32_t get_u32(const uint8_t *from);
uint64_t get_u64(const uint8_t *from);
void put_u16(uint8_t *to, uint16_t value);
void put_u32(uint8_t *to, uint32_t value);
void put_u64(uint8_t *to, uint64_t value);

#endif
