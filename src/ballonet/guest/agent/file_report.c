/* Errors of a file program. */
#define _GNU_SOURCE
#include "file_report.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_REPORTS = 8, SHOWN_BYTES = 256 };

static const char *top = "";
static unsigned reports;

void report_begin(const char *path)
{
	top = path;
}

void report(const char *below, const char *what)
{
	size_t size = strlen(top);
	bool needs_slash = *below && *below != '/' && size > 0 && top[size - 1] != '/';

	if (++reports <= MAX_REPORTS)
		dprintf(STDERR_FILENO, "%.*s%s%.*s: %s\n", SHOWN_BYTES, top, needs_slash ? "/" : "", SHOWN_BYTES,
			below, what);
}

void report_errno(const char *below, int error)
{
	report(below, strerror(error));
}

unsigned report_count(void)
{
	return reports;
}

int report_status(void)
{
	if (reports > MAX_REPORTS)
		dprintf(STDERR_FILENO, "and %u more\n", reports - MAX_REPORTS);
	return reports ? 1 : 0;
}

_Noreturn void fail_about(const char *subject, int error)
{
	report_begin(subject);
	fail(error);
}

_Noreturn void fail(int error)
{
	report_errno("", error);
	_exit(1);
}
