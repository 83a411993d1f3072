/* Errors of a file program: lines on its standard error, and its exit status. */
#ifndef BALLONET_FILE_REPORT_H
#define BALLONET_FILE_REPORT_H

/* Sets the path that the program works on. Reports name it. */
void report_begin(const char *path);
/* Writes one line, "PATH/BELOW: WHAT", and makes the status 1. Only the first few lines are written, because the host
 * reads them when the output has ended. */
void report(const char *below, const char *what);
void report_errno(const char *below, int error);
unsigned report_count(void);
/* Says how many lines were left out, and returns the status. */
int report_status(void);
/* Report an error and exit with status 1: about the path itself, or about something else. */
_Noreturn void fail(int error);
_Noreturn void fail_about(const char *subject, int error);

#endif
