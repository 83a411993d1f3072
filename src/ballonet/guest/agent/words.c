/* Strings in a payload. */
#define _GNU_SOURCE
#include "words.h"

#include <string.h>

bool take_words(char **words, uint32_t count, char **at, const char *end)
{
	for (uint32_t i = 0; i < count; i++) {
		char *nul = memchr(*at, '\0', (size_t)(end - *at));

		if (!nul)
			return false;
		words[i] = *at;
		*at = nul + 1;
	}
	words[count] = NULL;
	return true;
}
