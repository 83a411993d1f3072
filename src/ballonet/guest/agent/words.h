/* Strings in a payload. */
#ifndef BALLONET_WORDS_H
#define BALLONET_WORDS_H

#include <stdbool.h>
#include <stdint.h>

/* Takes `count` strings, each ended by NUL, and adds NULL. False: there are fewer. */
bool take_words(char **words, uint32_t count, char **at, const char *end);

#endif
