/* Files by device and inode, with a name each. */
#ifndef BALLONET_INODE_TABLE_H
#define BALLONET_INODE_TABLE_H

#include <stdbool.h>
#include <sys/types.h>

/* False: the table is full, and the file is not in it. */
bool inode_table_add(dev_t device, ino_t inode, const char *name);
/* The name of a file that was added, or NULL. */
const char *inode_table_find(dev_t device, ino_t inode);
bool inode_table_full(void);

#endif
