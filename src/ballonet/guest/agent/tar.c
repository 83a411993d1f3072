/* The GNU tar format (GNU tar's manual, "Basic Tar Format"): writing headers, and reading their fields. */
#define _GNU_SOURCE
#include "tar.h"
#include "file_io.h"

#include <stdio.h>
#include <string.h>

enum { NAME_FIELD = 100 };

struct header {
	char name[NAME_FIELD], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8];
	char type, link[NAME_FIELD], magic[8], user[32], group[32], major[8], minor[8], rest[167];
};
_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is one block");

/* In octal if it fits, otherwise in binary: the top bit is set, and the rest is two's complement, big-endian. */
static void put_number(char *field, size_t size, int64_t value)
{
	char digits[24];

	if (value >= 0 && (size > 20 || (uint64_t)value < (uint64_t)1 << (3 * (size - 1)))) {
		snprintf(digits, sizeof digits, "%0*llo", (int)size - 1, (unsigned long long)value);
		memcpy(field, digits, size);
		return;
	}
	for (size_t i = size; i-- > 0;) {
		field[i] = (char)(value & 0xff);
		value >>= 8;
	}
	field[0] = (char)(field[0] | 0x80);
}

static void put_header(struct header *header)
{
	const uint8_t *bytes = (const uint8_t *)header;
	unsigned sum = 0;
	char digits[8];

	memcpy(header->magic, "ustar  ", 8);
	memset(header->checksum, ' ', sizeof header->checksum);
	for (size_t i = 0; i < sizeof *header; i++)
		sum += bytes[i];
	snprintf(digits, sizeof digits, "%06o", sum);
	memcpy(header->checksum, digits, 7);
	out_bytes(header, sizeof *header);
}

/* A name that does not fit into the header: a member of its own, before the one that it belongs to. */
static void put_long(char type, const char *text)
{
	struct header header = {.name = "././@LongLink", .type = type};
	size_t size = strlen(text) + 1;

	put_number(header.mode, sizeof header.mode, 0644);
	put_number(header.uid, sizeof header.uid, 0);
	put_number(header.gid, sizeof header.gid, 0);
	put_number(header.size, sizeof header.size, (int64_t)size);
	put_number(header.mtime, sizeof header.mtime, 0);
	put_header(&header);
	out_bytes(text, size);
	tar_put_padding(size);
}

static void put_text(char field[NAME_FIELD], const char *text)
{
	size_t size = strlen(text);

	memcpy(field, text, size < NAME_FIELD ? size : NAME_FIELD);
}

void tar_put(const struct tar_member *member)
{
	struct header header = {.type = member->type};

	if (member->link && strlen(member->link) > NAME_FIELD)
		put_long('K', member->link);
	if (strlen(member->name) > NAME_FIELD)
		put_long('L', member->name);
	put_text(header.name, member->name);
	if (member->link)
		put_text(header.link, member->link);
	put_number(header.mode, sizeof header.mode, member->mode & 07777);
	put_number(header.uid, sizeof header.uid, (int64_t)member->uid);
	put_number(header.gid, sizeof header.gid, (int64_t)member->gid);
	put_number(header.size, sizeof header.size, (int64_t)member->size);
	put_number(header.mtime, sizeof header.mtime, member->seconds);
	if (member->type == '3' || member->type == '4') {
		put_number(header.major, sizeof header.major, member->major);
		put_number(header.minor, sizeof header.minor, member->minor);
	}
	put_header(&header);
}

uint64_t tar_padding(uint64_t size)
{
	return (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
}

void tar_put_padding(uint64_t size)
{
	out_zeros(tar_padding(size));
}

void tar_put_end(void)
{
	out_zeros(2 * TAR_BLOCK);
	out_flush();
}

bool tar_number(const uint8_t *field, size_t size, int64_t *value)
{
	size_t i = 0;
	uint64_t number = 0;

	if (field[0] & 0x80) {
		bool negative = field[0] & 0x40;
		/* The first byte has the sign and six bits. All bits beyond 64 must equal the sign. */
		number = negative ? ~(uint64_t)0 : 0;
		for (i = 0; i < size; i++) {
			uint8_t byte = i > 0 ? field[i] : (uint8_t)(negative ? field[0] : field[0] & 0x7f);

			if (number >> 55 != (negative ? 0x1ff : 0))
				return false;
			number = number << 8 | byte;
		}
		*value = (int64_t)number;
		return true;
	}
	while (i < size && (field[i] == ' ' || field[i] == '\0'))
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++) {
		if (number >> 59)
			return false;
		number = number << 3 | (uint64_t)(field[i] - '0');
	}
	if (i < size && field[i] != ' ' && field[i] != '\0')
		return false;
	*value = (int64_t)number;
	return true;
}

bool tar_decimal(const char *text, const char *end, uint64_t *value)
{
	uint64_t number = 0;

	if (text == end)
		return false;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9' || number > (uint64_t)INT64_MAX / 10 - 1)
			return false;
		number = number * 10 + (uint64_t)(*text - '0');
	}
	*value = number;
	return true;
}

bool tar_is_zero(const uint8_t block[TAR_BLOCK])
{
	for (size_t i = 0; i < TAR_BLOCK; i++)
		if (block[i])
			return false;
	return true;
}

/* Old programs summed signed characters. */
bool tar_checksum_fits(const uint8_t block[TAR_BLOCK])
{
	const size_t from = offsetof(struct header, checksum), to = from + 8;
	int64_t sum = 0, signed_sum = 0, said;

	for (size_t i = 0; i < TAR_BLOCK; i++) {
		uint8_t byte = i >= from && i < to ? ' ' : block[i];

		sum += byte;
		signed_sum += (int8_t)byte;
	}
	return tar_number(block + from, 8, &said) && (said == sum || said == signed_sum);
}
