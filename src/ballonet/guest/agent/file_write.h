/* File programs that write a file or make a directory. */
#ifndef BALLONET_FILE_WRITE_H
#define BALLONET_FILE_WRITE_H

/* write PATH MODE [parents]: replaces the content by standard input, completely or not at all. What is not a regular
 * file, and a file of /proc or /sys, is written to instead. */
int write_program(char **words);
/* mkdir PATH [parents] */
int mkdir_program(char **words);

#endif
