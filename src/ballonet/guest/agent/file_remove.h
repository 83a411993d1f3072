/* The file program that removes. */
#ifndef BALLONET_FILE_REMOVE_H
#define BALLONET_FILE_REMOVE_H

/* remove PATH [recursive]: a file or an empty directory; with `recursive`, a directory and everything in it. */
int remove_program(char **words);

#endif
