/* Extended headers of the pax format (POSIX, "pax Extended Header"): "LENGTH KEY=VALUE\n", one after the other. */
#define _GNU_SOURCE
#include "tar_pax.h"
#include "tar.h"

#include <string.h>

/* Seconds, which may have a fraction and may be before 1970. */
static bool parse_time(const char *text, const char *end, struct timespec *time)
{
	bool negative = text < end && *text == '-';
	const char *point = memchr(text, '.', (size_t)(end - text));
	uint64_t seconds;
	long nanoseconds = 0, unit = 100000000;

	if (!tar_decimal(text + negative, point ? point : end, &seconds))
		return false;
	for (const char *at = point ? point + 1 : end; at < end; at++, unit /= 10) {
		if (*at < '0' || *at > '9')
			return false;
		nanoseconds += (*at - '0') * unit;
	}
	time->tv_sec = negative ? -(time_t)seconds : (time_t)seconds;
	time->tv_nsec = nanoseconds;
	if (negative && nanoseconds) {
		time->tv_sec--;
		time->tv_nsec = 1000000000 - nanoseconds;
	}
	return true;
}

/* False: it contains NUL. */
static bool set_text(char **to, char *value, const char *end)
{
	*to = value;
	return strlen(value) == (size_t)(end - value);
}

static bool apply_record(struct pax_extension *extension, const char *key, char *value, char *end)
{
	if (strcmp(key, "path") == 0)
		return set_text(&extension->path, value, end);
	if (strcmp(key, "GNU.sparse.name") == 0)
		return set_text(&extension->sparse_name, value, end);
	if (strcmp(key, "linkpath") == 0)
		return set_text(&extension->link, value, end);
	if (strcmp(key, "size") == 0)
		return extension->has_size = tar_decimal(value, end, &extension->size);
	if (strcmp(key, "uid") == 0)
		return extension->has_uid = tar_decimal(value, end, &extension->uid);
	if (strcmp(key, "gid") == 0)
		return extension->has_gid = tar_decimal(value, end, &extension->gid);
	if (strcmp(key, "mtime") == 0)
		return extension->has_time = parse_time(value, end, &extension->changed);
	if (strcmp(key, "GNU.sparse.major") == 0)
		extension->sparse = strcmp(value, "1") == 0;
	if (strcmp(key, "GNU.sparse.realsize") == 0)
		return tar_decimal(value, end, &extension->real_size);
	if (strcmp(key, "GNU.sparse.map") == 0 || strcmp(key, "GNU.sparse.offset") == 0)
		extension->old_sparse = true;
	return true;
}

bool pax_parse(char *text, size_t size, struct pax_extension *extension)
{
	char *end = text + size;

	while (text < end) {
		char *space = memchr(text, ' ', (size_t)(end - text)), *equals;
		uint64_t length;

		if (!space || !tar_decimal(text, space, &length) || length > (uint64_t)(end - text) ||
		    length < (uint64_t)(space - text) + 3 || text[length - 1] != '\n')
			return false;
		equals = memchr(space, '=', (size_t)(text + length - space));
		if (!equals)
			return false;
		*equals = text[length - 1] = '\0';
		if (!apply_record(extension, space + 1, equals + 1, text + length - 1))
			return false;
		text += length;
	}
	return true;
}
