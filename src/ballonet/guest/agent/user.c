/* The user of a command: USER[:GROUP], resolved with the guest's current /etc/passwd and /etc/group by the rules of
 * Docker. Runs in the child only: the files belong to the guest, and may be slow, long or no files at all. */
#define _GNU_SOURCE
#include "user.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FIELDS = 7, MAX_MEMBERSHIPS = 65536 /* NGROUPS_MAX of Linux */, LINE_BYTES = 4 * 1024 * 1024 };

/* The largest ID of a user or group, as in Docker; for the kernel, -1 means "unchanged". */
static const unsigned long max_id = INT_MAX;

struct table {
	FILE *file;
	char *line;
	char *fields[MAX_FIELDS];
};

static bool is_number(const char *text, unsigned long *number)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*number = strtoul(text, &end, 10);
	return *end == '\0' && errno == 0 && *number <= max_id;
}

/* False: the file does not exist or is not a regular file, and has no entries. */
static bool open_table(struct table *table, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat status;

	table->line = malloc(LINE_BYTES);
	table->file = NULL;
	if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
		table->file = fdopen(fd, "r");
	return table->file && table->line;
}

static void close_table(struct table *table)
{
	if (table->file)
		fclose(table->file);
	free(table->line);
}

/* The next entry with at least `count` fields. The last one contains any further colons. */
static bool next_entry(struct table *table, int count)
{
	while (fgets(table->line, LINE_BYTES, table->file)) {
		char *at = table->line + strspn(table->line, " \t");
		int found = 0;

		at[strcspn(at, "\r\n")] = '\0';
		if (*at == '#')
			continue;
		while (found < count) {
			char *colon = strchr(at, ':');

			table->fields[found++] = at;
			if (!colon)
				break;
			*colon = '\0';
			at = colon + 1;
		}
		if (found == count)
			return true;
	}
	return false;
}

/* Finds the entry of `user`, a name or an ID, in /etc/passwd. A name takes precedence over an ID that is spelled the
 * same. `name` gets the name of the user. False: there is no entry. */
static bool find_in_passwd(const char *user, struct account *found, char name[MAX_ERROR_TEXT])
{
	unsigned long wanted, uid, gid;
	bool numeric = is_number(user, &wanted), here = false, by_name = false;
	struct table table;

	if (open_table(&table, "/etc/passwd")) {
		while (!by_name && next_entry(&table, 7)) {
			if (!is_number(table.fields[2], &uid) || !is_number(table.fields[3], &gid))
				continue;
			by_name = strcmp(table.fields[0], user) == 0;
			if (!by_name && (here || !numeric || uid != wanted))
				continue;
			here = true;
			found->uid = (uid_t)uid;
			found->gid = (gid_t)gid;
			snprintf(name, MAX_ERROR_TEXT, "%s", table.fields[0]);
			snprintf(found->home, sizeof found->home, "%s", *table.fields[5] ? table.fields[5] : "/");
		}
	}
	close_table(&table);
	return here;
}

static bool is_listed(const char *name, const char *members)
{
	size_t length = strlen(name);

	while (*members) {
		size_t this = strcspn(members, ",");

		if (this == length && memcmp(members, name, length) == 0)
			return true;
		members += this + (members[this] == ',');
	}
	return false;
}

static bool add_group(struct account *found, gid_t gid)
{
	if (found->group_count == MAX_MEMBERSHIPS)
		return false;
	found->groups[found->group_count++] = gid;
	return true;
}

/* Adds the groups that list `name`. */
static void find_memberships(const char *name, struct account *found)
{
	struct table table;
	unsigned long gid;

	if (open_table(&table, "/etc/group"))
		while (next_entry(&table, 4))
			if (is_number(table.fields[2], &gid) && is_listed(name, table.fields[3]))
				add_group(found, (gid_t)gid);
	close_table(&table);
}

static bool find_group(const char *group, gid_t *found)
{
	struct table table;
	unsigned long number, gid;
	bool numeric = is_number(group, &number), here = false;

	/* A number is an ID, unless it is the name of a group. */
	if (numeric)
		*found = (gid_t)number;
	if (open_table(&table, "/etc/group")) {
		while (!here && next_entry(&table, 4)) {
			here = is_number(table.fields[2], &gid) && strcmp(table.fields[0], group) == 0;
			if (here)
				*found = (gid_t)gid;
		}
	}
	close_table(&table);
	return here || numeric;
}

/* GROUP, or GROUP,GROUP,…: the first one is the primary group, the others are supplementary. */
static bool find_groups(char *groups, struct account *found, char text[MAX_ERROR_TEXT])
{
	bool first = true;

	for (char *one = strtok(groups, ","); one; one = strtok(NULL, ",")) {
		gid_t gid;

		if (!find_group(one, &gid)) {
			snprintf(text, MAX_ERROR_TEXT, "unable to find group %.200s: no matching entry in group file of the guest",
				 one);
			return false;
		}
		if (first)
			found->gid = gid;
		else
			add_group(found, gid);
		first = false;
	}
	return true;
}

bool user_find(const char *spec, struct account *found, char text[MAX_ERROR_TEXT])
{
	char name[MAX_ERROR_TEXT] = "", own[16], *user = strdup(spec), *groups;
	unsigned long number;

	*found = (struct account){.groups = calloc(MAX_MEMBERSHIPS, sizeof *found->groups), .home = "/"};
	if (!user || !found->groups) {
		snprintf(text, MAX_ERROR_TEXT, "cannot look up the user: %s", strerror(ENOMEM));
		return false;
	}
	groups = strchr(user, ':');
	if (groups)
		*groups++ = '\0';
	/* Empty: the user of the agent, which is root. */
	snprintf(own, sizeof own, "%u", (unsigned)geteuid());
	if (*user == '\0')
		user = own;
	if (!find_in_passwd(user, found, name)) {
		if (!is_number(user, &number)) {
			snprintf(text, MAX_ERROR_TEXT, "unable to find user %.200s: no matching entry in passwd file of the guest",
				 user);
			return false;
		}
		found->uid = (uid_t)number;
	}
	if (groups && *groups)
		return find_groups(groups, found, text);
	if (*name)
		find_memberships(name, found);
	return true;
}
