/* The end of the agent. */
#define _GNU_SOURCE
#include "end.h"
#include "base.h"

#include <stdlib.h>
#include <sys/reboot.h>
#include <unistd.h>

static void (*undo_first)(void);

void end_before(void (*undo)(void))
{
	undo_first = undo;
}

_Noreturn void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* For a machine that cannot power off: the engine is configured not to restart it. */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

_Noreturn void agent_end(int status)
{
	if (undo_first)
		undo_first();
	if (is_init)
		power_off();
	exit(status);
}

_Noreturn void violation(const char *why, uint16_t type, uint32_t stream)
{
	complain("the host broke the protocol: %s (frame type 0x%02x, stream %u)", why, (unsigned)type,
		 (unsigned)stream);
	agent_end(END_VIOLATION);
}
