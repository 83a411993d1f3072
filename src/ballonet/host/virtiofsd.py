"""Finds virtiofsd, which serves a directory of the host to a guest, and renders its command line.

There are two: QEMU's, in C (Debian 12), and its successor in Rust (newer systems). Both confine themselves to the
directory: they make it the root of a mount namespace before they serve anything.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ProcessError
from ballonet.base.process import find_program, run

#: Where distributions install it: it is not on PATH.
_PLACES = ("/usr/libexec", "/usr/lib/qemu", "/usr/libexec/qemu", "/usr/lib")
_OTHER = "reinstall it, or set BALLONET_VIRTIOFSD to another binary"
_HINT = "install it: apt-get install virtiofsd, or qemu-system-common on Debian 12"


@dataclass(frozen=True)
class Virtiofsd:
    """A binary, and which of the two it is."""

    binary: Path
    rust: bool
    #: It can serve a directory read-only.
    read_only: bool

    def command(self, directory: Path, listener: int, *, read_only: bool) -> list[str]:
        """The command line that serves ``directory`` on the listening socket ``listener``."""
        if self.rust:
            argv = [str(self.binary), "--shared-dir", str(directory), f"--fd={listener}"]
            argv += ["--sandbox", "namespace", "--cache", "auto", "--log-level", "warn"]
            return argv + ["--readonly"] * (read_only and self.read_only)
        # Options are separated by commas; a backslash escapes a character (fuse_opt_parse).
        source = str(directory).replace("\\", "\\\\").replace(",", "\\,")
        options = f"source={source},sandbox=namespace,cache=auto,xattr,log_level=warn"
        return [str(self.binary), f"--fd={listener}", "-f", "-o", options]


@cache
def find_virtiofsd() -> Virtiofsd:
    """``$BALLONET_VIRTIOFSD``, or the first that is installed.

    :raises HostError: there is none, or it does not run.
    """
    chosen = os.environ.get("BALLONET_VIRTIOFSD")
    binary = Path(chosen) if chosen else find_program("virtiofsd", hint=_HINT, search=_PLACES)
    try:
        output = run([binary, "--help"], timeout_s=30, hint=_OTHER)
    except ProcessError as error:
        # The one in C drops its groups, which only root may do, before it reads its options.
        if os.geteuid() == 0 or "setgroups" not in error.message:
            raise
        output = ""
    return Virtiofsd(binary, rust="--shared-dir" in output, read_only="--readonly" in output)
