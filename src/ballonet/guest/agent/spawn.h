/* Starting one process. */
#ifndef BALLONET_SPAWN_H
#define BALLONET_SPAWN_H

#include "process_state.h"
#include "wire.h"

#include <stdbool.h>
#include <stdint.h>

struct exec_request {
	uint16_t flags, rows, columns;
	const char *user, *directory;
	char *words; /* the arguments, then the environment, until the end of the payload */
	const char *words_end;
	uint32_t argument_count, environment_count;
	char **arguments, **environment; /* the same, in the child only */
};
/* Parses an EXEC payload, in which the words stay. False: it is malformed. */
bool exec_parse(uint8_t *payload, uint32_t size, struct exec_request *request);
/* Starts the child of `p`. Returns errno; the caller closes what was opened in `p`. Whether the command itself could be
 * run is reported later through p->fail. */
int exec_spawn(struct process *p, const struct exec_request *request);
/* What the child writes to its `fail` pipe: the step that failed, errno, and a message. */
struct exec_failure {
	int step, error;
	char text[MAX_ERROR_TEXT];
};

#endif
