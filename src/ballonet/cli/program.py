"""The program ``ballonet``: its process, around :func:`ballonet.cli.main.main`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def program() -> NoReturn:
    """Run the command that this process was started with, and end the process.

    Python would free every object first, which is a sixth of the processor time of a command.
    """
    status = _status()
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:
        import atexit

        atexit._run_exitfuncs()
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except Exception:
            sys.exit(status)  # Python reports it
        os._exit(status)
    sys.exit(status)


def _status() -> int:
    try:
        from ballonet.cli.dropped_interrupts import send_dropped_interrupts_again

        send_dropped_interrupts_again()
        from ballonet.base.garbage import collect_seldom

        collect_seldom()
        from ballonet.cli.main import EXIT_FAILED, main
    except KeyboardInterrupt:  # Ctrl-C during the imports: no traceback
        raise SystemExit(130) from None
    try:
        return main()
    except SystemExit as end:  # of the process that was forked for a sandbox
        return end.code if isinstance(end.code, int) else EXIT_FAILED
