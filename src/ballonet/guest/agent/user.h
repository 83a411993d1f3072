/* Who a command runs as, by the guest's own files. */
#ifndef BALLONET_USER_H
#define BALLONET_USER_H

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct account {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
	char home[4096];
};
/* Looks USER[:GROUP] up in the guest's own files. Runs in the child. False: `text` says why. */
bool user_find(const char *user, struct account *found, char text[MAX_ERROR_TEXT]);

#endif
