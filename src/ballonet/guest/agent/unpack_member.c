/* One member of a tar stream: a directory, a file, a link or a device. */
#define _GNU_SOURCE
#include "unpack_member.h"
#include "file_report.h"
#include "inode_table.h"
#include "unpack_attributes.h"
#include "unpack_directories.h"
#include "unpack_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void make_directory(const struct tar_member *member, int above, const char *part, bool owners)
{
	struct stat st;
	int fd;

	if (mkdirat(above, part, 0700) < 0 && errno != EEXIST) {
		report_errno(member->name, errno);
		return;
	}
	fd = openat(above, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0) {
		directories_enter(fd, member->name, set_owner(fd, "", member, owners), time_of(member));
		return;
	}
	/* A link to a directory is followed, and that directory stays as it is. */
	if (fstatat(above, part, &st, 0) == 0 && S_ISDIR(st.st_mode) && may_follow(above, part))
		return;
	if (fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode))
		report(member->name, "cannot replace this file with a directory");
	else
		report_errno(member->name, errno);
}

/* Removes what has the name. False: it cannot, which has been reported. */
static bool make_way(const struct tar_member *member, int above, const char *part)
{
	struct stat st;

	if (fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return true;
	if (S_ISDIR(st.st_mode)) {
		report(member->name, "cannot replace a directory with a file");
		return false;
	}
	if (unlinkat(above, part, 0) < 0 && errno != ENOENT) {
		report_errno(member->name, errno);
		return false;
	}
	return true;
}

static void make_hard_link(const struct tar_member *member, int above, const char *part)
{
	struct stat st, there;
	char *other;
	int from;

	if (!clean_name(member->link) || !*member->link) {
		report(member->name, "refusing a hard link whose target is empty or contains \"..\"");
		return;
	}
	from = directories_open_above(member->link, &other, false);
	if (from < 0)
		return;
	if (fstatat(from, other, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		report(member->name, "the target of this hard link does not exist");
	} else if (fstatat(above, part, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_dev == st.st_dev &&
		   there.st_ino == st.st_ino) {
		/* It exists already, and removing it first would lose it. */
	} else if (make_way(member, above, part) && linkat(from, other, above, part, 0) < 0) {
		report_errno(member->name, errno);
	}
	directories_close(from);
}

static bool points_outside(const char *link)
{
	if (*link == '/')
		return true;
	for (const char *part = link; *part; part += strspn(part, "/")) {
		size_t size = strcspn(part, "/");

		if (size == 2 && memcmp(part, "..", 2) == 0)
			return true;
		part += size;
	}
	return false;
}

/* A link, a device or a pipe. */
static void make_special(const struct tar_member *member, int above, const char *part, bool owners)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(member)};
	static const mode_t kinds[] = {['3'] = S_IFCHR, ['4'] = S_IFBLK, ['6'] = S_IFIFO};
	struct stat st;
	int made;

	if (!make_way(member, above, part))
		return;
	if (member->type == '2')
		made = symlinkat(member->link, above, part);
	else
		made = mknodat(above, part, kinds[(unsigned char)member->type] | 0600,
			       makedev(member->major, member->minor));
	if (made < 0) {
		report_errno(member->name, errno);
		return;
	}
	if (member->type == '2') {
		set_owner(above, part, member, owners);
		if (points_outside(member->link) && fstatat(above, part, &st, AT_SYMLINK_NOFOLLOW) == 0)
			inode_table_add(st.st_dev, st.st_ino, "");
	} else {
		fchmodat(above, part, set_owner(above, part, member, owners), 0);
	}
	utimensat(above, part, times, AT_SYMLINK_NOFOLLOW);
}

/* False: the member cannot have a place, which has been reported. */
static bool find_place(struct tar_member *member, int *above, char **part)
{
	if (!clean_name(member->name)) {
		report(member->name, "refusing a name that contains \"..\"");
		return false;
	}
	if (!*member->name) {
		/* The directory itself existed before, and stays as it is. */
		if (member->type != '5')
			report("", "a member of the archive has no name");
		return false;
	}
	directories_leave(member->name);
	*above = directories_open_above(member->name, part, true);
	return *above >= 0;
}

void unpack_member(struct tar_entry *entry, bool owners)
{
	struct tar_member *member = &entry->member;
	bool is_file = member->type == '0' || member->type == '7' || member->type == 'S';
	char *part;
	int above;

	if (!is_file)
		skip_content(entry);
	if (!find_place(member, &above, &part)) {
		if (is_file)
			skip_content(entry);
		return;
	}
	if (is_file)
		unpack_file(entry, above, part, owners);
	else if (member->type == '5')
		make_directory(member, above, part, owners);
	else if (member->type == '1')
		make_hard_link(member, above, part);
	else
		make_special(member, above, part, owners);
	directories_close(above);
}
