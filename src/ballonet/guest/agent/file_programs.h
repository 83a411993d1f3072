/* The agent's own programs for the files of a guest. Each runs in a child of the agent (spawn.c): it may block, and the
 * memory that it takes does not grow with what it is sent. docs/agent.md describes them. */
#ifndef BALLONET_FILE_PROGRAMS_H
#define BALLONET_FILE_PROGRAMS_H

/* Runs the program that the first of `words` names, with the others as its arguments. */
_Noreturn void file_program(char **words);

#endif
