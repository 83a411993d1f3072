"""The program that serves a directory of the host to a guest: found, asked once which of two it is, and rendered.

There are two: QEMU's own in C (Debian 12, beside QEMU) and its successor in Rust (newer systems). Both confine
themselves to the directory: they make it the root of a mount namespace of their own before they serve anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ballonet.base.errors import ProcessError
from ballonet.base.process import find_program, run

#: Where distributions put it: never on PATH.
_PLACES = ("/usr/libexec", "/usr/lib/qemu", "/usr/libexec/qemu", "/usr/lib")
_OTHER = "it is there and does not run: mend it, or name another with BALLONET_VIRTIOFSD"
_HINT = "install it: apt-get install virtiofsd, or qemu-system-common on Debian 12"


@dataclass(frozen=True)
class Virtiofsd:
    """A program, and which of the two it is."""

    binary: Path
    rust: bool
    #: It can keep a directory from being written by itself.
    read_only: bool

    def command(self, directory: Path, listener: int, *, read_only: bool) -> list[str]:
        """The command line that serves ``directory`` to whoever has connected to the listening socket ``listener``."""
        if self.rust:
            argv = [str(self.binary), "--shared-dir", str(directory), f"--fd={listener}"]
            argv += ["--sandbox", "namespace", "--cache", "auto", "--log-level", "warn"]
            return argv + ["--readonly"] * (read_only and self.read_only)
        # Its options are a list with commas, in which a backslash takes a character as it is (fuse_opt_parse).
        source = str(directory).replace("\\", "\\\\").replace(",", "\\,")
        options = f"source={source},sandbox=namespace,cache=auto,xattr,log_level=warn"
        return [str(self.binary), f"--fd={listener}", "-f", "-o", options]


@cache
def find_virtiofsd() -> Virtiofsd:
    """The one to use: ``$BALLONET_VIRTIOFSD``, or the first of the usual places.

    :raises HostError: there is none, or it does not run.
    """
    chosen = os.environ.get("BALLONET_VIRTIOFSD")
    binary = Path(chosen) if chosen else find_program("virtiofsd", hint=_HINT, search=_PLACES)
    try:
        said = run([binary, "--help"], timeout_s=30, hint=_OTHER)
    except ProcessError as error:
        # The one in C gives up its groups before it reads its options, which only root may do.
        if os.geteuid() == 0 or "setgroups" not in error.message:
            raise
        said = ""
    return Virtiofsd(binary, rust="--shared-dir" in said, read_only="--readonly" in said)
