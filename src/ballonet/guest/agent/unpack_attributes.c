/* Owner, mode and time of what is unpacked. */
#define _GNU_SOURCE
#include "unpack_attributes.h"
#include "file_report.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

mode_t set_owner(int fd, const char *part, const struct tar_member *member, bool owners)
{
	mode_t mode = member->mode & 07777;
	bool uid_fits = member->uid < (uid_t)-1, gid_fits = member->gid < (gid_t)-1;

	if (owners && uid_fits && gid_fits) {
		if (fchownat(fd, part, (uid_t)member->uid, (gid_t)member->gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) == 0)
			return mode;
		report(member->name, "cannot set its owner");
	}
	if (member->uid != geteuid())
		mode &= ~(mode_t)S_ISUID;
	if (member->gid != getegid())
		mode &= ~(mode_t)S_ISGID;
	return mode;
}

void set_time(int fd, struct timespec changed)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, changed};

	/* Not fatal: the file system may not support this time. */
	if (futimens(fd, times) < 0)
		errno = 0;
}

struct timespec time_of(const struct tar_member *member)
{
	return (struct timespec){member->seconds, member->nanoseconds};
}
