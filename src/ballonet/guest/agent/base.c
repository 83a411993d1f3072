/* Basic functions of all modules. */
#define _GNU_SOURCE
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

bool is_init;

static int64_t clock_ms(clockid_t clock)
{
	struct timespec now = {0};

	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

uint64_t uptime_ms(void)
{
	return (uint64_t)clock_ms(CLOCK_BOOTTIME);
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void complain(const char *format, ...)
{
	va_list arguments;

	dprintf(STDERR_FILENO, "ballonet-agent: ");
	va_start(arguments, format);
	vdprintf(STDERR_FILENO, format, arguments);
	va_end(arguments);
	dprintf(STDERR_FILENO, "\n");
}

uint16_t get_u16(const uint8_t *from)
{
	return (uint16_t)(from[0] | from[1] << 8);
}

uint32_t get_u32(const uint8_t *from)
{
	return (uint32_t)get_u16(from) | (uint32_t)get_u16(from + 2) << 16;
}

uint64_t get_u64(const uint8_t *from)
{
	return (uint64_t)get_u32(from) | (uint64_t)get_u32(from + 4) << 32;
}

void put_u16(uint8_t *to, uint16_t value)
{
	to[0] = (uint8_t)value;
	to[1] = (uint8_t)(value >> 8);
}

void put_u32(uint8_t *to, uint32_t value)
{
	put_u16(to, (uint16_t)value);
	put_u16(to + 2, (uint16_t)(value >> 16));
}

void put_u64(uint8_t *to, uint64_t value)
{
	put_u32(to, (uint32_t)value);
	put_u32(to + 4, (uint32_t)(value >> 32));
}
