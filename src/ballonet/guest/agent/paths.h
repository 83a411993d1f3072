/* Directories that are made as they are needed. */
#ifndef BALLONET_PATHS_H
#define BALLONET_PATHS_H

/* Makes the directory `path` (absolute) and those above it. Returns errno. */
int make_directories(const char *path);

#endif
