/* The user of a command, from the guest's /etc/passwd and /etc/group. */
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
/* Resolves USER[:GROUP]. Runs in the child. False: `text` has the reason. */
bool user_find(const char *user, struct account *found, char text[MAX_ERROR_TEXT]);

#endif
