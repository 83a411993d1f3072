/* A running code session: it serves one client at a time on its socket, until it is closed. */
#ifndef BALLONET_CODE_SERVE_H
#define BALLONET_CODE_SERVE_H

#include "code_kernel.h"

struct code_session {
	const char *prefix, *name;
	int lock;
	char **command;
	const char *language;
	int listener;
	struct code_kernel kernel;
};

/* Returns when a client has closed the session, everything in it has ended, and its files are removed. */
void code_serve(struct code_session *session);

#endif
