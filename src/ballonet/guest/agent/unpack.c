/* The file program that unpacks a tar stream.
 *
 * As GNU tar does by default, it drops a leading "/", refuses "..", and follows links that existed before, but none
 * from the stream that points outside of it. If a member cannot be unpacked, that is reported and the next one is
 * taken; a damaged stream or a full disk ends the program. */
#define _GNU_SOURCE
#include "unpack.h"
#include "file_report.h"
#include "tar_reader.h"
#include "tar_stream.h"
#include "unpack_directories.h"
#include "unpack_file.h"
#include "unpack_member.h"

#include <unistd.h>

static void clean_up(void)
{
	unpack_file_abandon();
	directories_leave(NULL);
}

int unpack_program(char **words)
{
	struct tar_entry entry;

	tar_stream_open(clean_up);
	directories_open(words[0]);
	while (tar_read(&entry))
		unpack_member(&entry, words[1] && geteuid() == 0);
	directories_leave(NULL);
	return report_status();
}
