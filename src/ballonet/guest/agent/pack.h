/* The file program that makes a tar stream. */
#ifndef BALLONET_PACK_H
#define BALLONET_PACK_H

/* pack PATH NAME [follow]: a file or a tree as a tar stream in the GNU format, in which it is called NAME. */
int pack_program(char **words);

#endif
