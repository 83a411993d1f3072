/* PID 1 only: making another file system the root of everything. */
#ifndef BALLONET_ROOT_H
#define BALLONET_ROOT_H

#include <stdbool.h>

int root_copy(const char *to);
int root_switch(const char *root, bool keep_tmp);

#endif
