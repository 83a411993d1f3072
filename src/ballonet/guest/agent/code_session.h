/* The file programs of code sessions: one starts a session, which runs on in the background; one connects to it. */
#ifndef BALLONET_CODE_SESSION_H
#define BALLONET_CODE_SESSION_H

/* `session start PREFIX NAME LANGUAGE COMMAND…` or `session connect PREFIX NAME`; `words` begins after "session". */
_Noreturn void code_session_program(char **words);

#endif
