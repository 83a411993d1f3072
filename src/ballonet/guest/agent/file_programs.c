/* The table of the file programs.
 *
 * They let the host work with the files of a guest whatever its image contains. A program is the child of an EXEC with
 * the flag EXEC_BUILTIN: it has the pipes, the user and the directory of the process. */
#define _GNU_SOURCE
#include "file_programs.h"
#include "code_session.h"
#include "file_io.h"
#include "file_look.h"
#include "file_remove.h"
#include "file_report.h"
#include "file_write.h"
#include "pack.h"
#include "unpack.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN_DIRECTORIES = 16 * 1024 };

static const struct {
	const char *name;
	int least, most; /* number of arguments; the first is always a path */
	int (*run)(char **words);
} programs[] = {
	{"stat", 1, 1, stat_program},
	{"follow", 1, 1, follow_program},
	{"list", 1, 1, list_program},
	{"resolve", 1, 1, resolve_program},
	{"read", 1, 1, read_program},
	{"write", 2, 3, write_program},
	{"mkdir", 1, 2, mkdir_program},
	{"remove", 1, 2, remove_program},
	{"pack", 2, 3, pack_program},
	{"unpack", 1, 2, unpack_program},
};

/* A tree takes a descriptor for each of its levels. */
static void allow_depth(void)
{
	struct rlimit files = {OPEN_DIRECTORIES, OPEN_DIRECTORIES};

	if (setrlimit(RLIMIT_NOFILE, &files) == 0 || getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

_Noreturn void file_program(char **words)
{
	int count = 0, status;

	if (strcmp(words[0], "session") == 0)
		code_session_program(words + 1); /* its processes have the limits and the mask of every command */
	while (words[count + 1])
		count++;
	prctl(PR_SET_NAME, "ballonet-files");
	umask(022);
	allow_depth();
	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
		if (strcmp(words[0], programs[i].name) != 0)
			continue;
		if (count < programs[i].least || count > programs[i].most)
			break;
		report_begin(words[1]);
		status = programs[i].run(words + 1);
		out_flush();
		_exit(status);
	}
	report_begin(words[0]);
	report("", "the agent has no such file program, or it takes other arguments");
	_exit(127);
}
