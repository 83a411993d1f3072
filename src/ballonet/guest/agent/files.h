/* The agent's own file programs: what their parts offer one another. Each runs in a child of the agent (spawn.c), so
 * it may block and allocate; what it allocates is of fixed size, whatever is sent. Nothing here runs in the agent.
 */
#ifndef BALLONET_FILES_H
#define BALLONET_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum {
	PIECE = 256 * 1024,    /* what is read or written at once */
	NAME_ROOM = 32 * 1024, /* the longest name of a member of an archive, and of what a link points to */
	TAR_BLOCK = 512,
};

/* files.c */
/* What a child does for an EXEC with EXEC_BUILTIN. */
_Noreturn void file_program(char **words);
/* One line on standard error, and the program's status becomes 1. Only the first few are written: nobody reads them
 * before the output has ended. */
void report(const char *top, const char *below, const char *what);
void report_errno(const char *top, const char *below, int error);
/* The lines that were left out; the program's status. */
int reported(void);
/* Memory of a fixed size, for as long as the program runs. */
void *room_for(size_t bytes);
/* Standard output, gathered into large pieces. A reader that is gone ends the program. */
void out_bytes(const void *bytes, size_t size);
void out_zeros(uint64_t size);
void out_flush(void);
/* Reads until `size` bytes, the end or an error. Returns what was read, or -1 if that was nothing but an error. */
ssize_t read_full(int fd, void *to, size_t size);
bool write_full(int fd, const void *bytes, size_t size);

/* links.c: files seen before, by device and inode, with a name each. */
/* Remembers a file. False: there is no more room, and it is not remembered. */
bool links_add(dev_t device, ino_t inode, const char *name);
/* The name of a file that was added, or NULL. */
const char *links_find(dev_t device, ino_t inode);
bool links_full(void);

/* tar.c */
struct tar_member {
	char type;
	char *name, *link; /* may have any bytes but NUL */
	uint32_t mode;
	uint64_t uid, gid, size;
	int64_t seconds;
	long nanoseconds;
	uint32_t major, minor;
};
/* Writes the header of a member in the GNU format to standard output. */
void tar_put(const struct tar_member *member);
/* After `size` bytes of content. */
void tar_put_padding(uint64_t size);
void tar_put_end(void);
/* A number of a header: octal, or binary where that is too short. False: it is neither. */
bool tar_number(const uint8_t *field, size_t size, int64_t *value);
bool tar_is_zero(const uint8_t block[TAR_BLOCK]);
bool tar_checksum_fits(const uint8_t block[TAR_BLOCK]);

/* pack.c, unpack.c */
int pack_program(char **words);
int unpack_program(char **words);

#endif
