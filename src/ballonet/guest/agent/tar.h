/* The tar format: members, headers and their fields. */
#ifndef BALLONET_TAR_H
#define BALLONET_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	TAR_BLOCK = 512,
	NAME_ROOM = 32 * 1024, /* the longest name of a member, and the longest target of a link */
};

struct tar_member {
	char type;
	char *name, *link; /* may contain any byte but NUL */
	uint32_t mode;
	uint64_t uid, gid, size;
	int64_t seconds;
	long nanoseconds;
	uint32_t major, minor;
};

/* Zeros after `size` bytes of content. */
uint64_t tar_padding(uint64_t size);

/* Write the header of a member in the GNU format, the padding after its content, and the end of the archive to standard
 * output. */
void tar_put(const struct tar_member *member);
void tar_put_padding(uint64_t size);
void tar_put_end(void);

/* Reads a number of a header: octal, or binary where octal is too short. False: it is neither. */
bool tar_number(const uint8_t *field, size_t size, int64_t *value);
/* Reads a decimal number that takes all of the text. */
bool tar_decimal(const char *text, const char *end, uint64_t *value);
bool tar_is_zero(const uint8_t block[TAR_BLOCK]);
bool tar_checksum_fits(const uint8_t block[TAR_BLOCK]);

#endif
