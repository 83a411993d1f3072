/* The file program that unpacks a tar stream. */
#ifndef BALLONET_UNPACK_H
#define BALLONET_UNPACK_H

/* unpack DIR [owners]: unpacks the tar stream on standard input in a directory. With `owners`, and as root, files get
 * the owners that the stream names; otherwise they belong to the user of the process. */
int unpack_program(char **words);

#endif
