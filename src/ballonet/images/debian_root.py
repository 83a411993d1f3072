"""Builds an image of a Debian root with ``mmdebstrap``, from the host's package sources.

It runs as root, or as an unprivileged user if the host supports one of mmdebstrap's modes (user namespaces with
``/etc/subuid``, or ``fakechroot``); mmdebstrap chooses the mode.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ballonet.base.errors import ConfigError, ProcessError
from ballonet.base.memory import MIB
from ballonet.base.process import (
    find_program,
    full_disk_hint,
    group_ends_with_parent,
    show_command,
    spawn,
)
from ballonet.images.image import Image
from ballonet.images.reference import parse_reference
from ballonet.images.skopeo import ARCHITECTURE, SYSTEM
from ballonet.images.store import ImageStore, Report

#: Variants (mmdebstrap(1)): ``essential`` has no apt, ``standard`` is a small complete system.
VARIANTS = ("essential", "apt", "minbase", "standard")

#: Packages for a purpose. ``code``: what code sessions use for rich results (docs/code-sessions.md).
FEATURES = {"code": ("python3", "python3-ipython", "python3-matplotlib")}

#: As in Debian's slim images: documentation and translations are left out, licences are kept.
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SUITE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.:-]{0,127}(=[A-Za-z0-9.+:~-]+)?")
#: Time limit of a build: one that takes longer has lost its network connection (seconds).
_DEADLINE_S = 3600.0
#: How long it may take to remove what it created when it is ended (seconds).
_CLEAN_UP_S = 60.0
_SOURCES = Path("/etc/apt")


def build_debian(
    store: ImageStore,
    name: str,
    *,
    suite: str = "bookworm",
    include: Sequence[str] = (),
    features: Sequence[str] = (),
    variant: str = "minbase",
    report: Report | None = None,
) -> Image:
    """Build a Debian root and store it as the image ``name``.

    :param include: packages to install in addition to those of ``variant``.
    :param features: names in :data:`FEATURES`, whose packages are installed, too.
    :raises ConfigError: a name is invalid.
    :raises HostError: mmdebstrap is not installed or failed; the message has its first error.
    """
    parse_reference(name)
    if not _SUITE.fullmatch(suite):
        raise ConfigError(f"invalid Debian suite {suite!r}", hint="for example bookworm")
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}", hint=f"choose one of {', '.join(VARIANTS)}")
    for feature in features:
        if feature not in FEATURES:
            raise ConfigError(f"unknown feature {feature!r}", hint=f"choose one of {', '.join(FEATURES)}")
    include = list(dict.fromkeys([*(each for name in features for each in FEATURES[name]), *include]))
    for package in include:
        if not _PACKAGE.fullmatch(package):
            raise ConfigError(f"invalid package name {package!r}")
    with store.catalog.work_directory() as work:
        layer = work / "layer.tar"
        argv = _command(suite, include, variant, layer)
        _run(argv, work / "messages", report)
        with layer.open("rb") as file:
            diff_id = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        image = store.build(_configuration(diff_id, show_command(argv[:-1])), layer, diff_id)
        return store.tag(image.id, name)


def _command(suite: str, include: Sequence[str], variant: str, layer: Path) -> list[str]:
    program = find_program("mmdebstrap", hint="apt-get install mmdebstrap")
    argv = [str(program), f"--variant={variant}", "--format=tar"]
    if include:
        argv.append(f"--include={','.join(include)}")
    argv += [f"--dpkgopt={option}" for option in _LEFT_OUT]
    # The host's name and DNS servers must not get into the image.
    argv.append('--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"')
    return [*argv, suite, str(layer), *_sources(suite)]


def _sources(suite: str, directory: Path = _SOURCES) -> list[str]:
    """The host's package sources for this suite. If there are none, mmdebstrap uses Debian's servers."""
    found = []
    for path in (directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))):
        if path.suffix not in (".list", ".sources"):
            continue
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if re.search(rf"^[^#]*\b{re.escape(suite)}\b", text, re.MULTILINE):
            found.append(str(path))
    return found


def _run(argv: Sequence[str], messages: Path, report: Report | None) -> None:
    """Run mmdebstrap and report its progress messages."""
    with messages.open("w+b") as output:
        # In a new session: when it fails (full disk) it sends SIGHUP to its whole process group.
        child = spawn(argv, stderr=output.fileno(), new_session=True)
        try:
            with group_ends_with_parent(child):
                lines = _follow(child, messages, report)
        finally:
            if child.poll() is None:
                # What it has started: then it unmounts and removes what it created. Alone, it would wait for the end.
                os.killpg(child.pid, signal.SIGTERM)
                try:
                    child.wait(_CLEAN_UP_S)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
    if child.returncode != 0:
        # The first error is the cause; the others follow from it.
        message = next(
            (line.removeprefix("E: ") for line in lines if line.startswith("E: ")), "\n".join(lines[-5:])
        )
        raise ProcessError(
            f"mmdebstrap failed with exit status {child.returncode}: {message[:1500]}",
            hint=_hint_for("\n".join([message, *lines]), messages.parent),
        )


def _follow(child: subprocess.Popen[bytes], messages: Path, report: Report | None) -> list[str]:
    """Wait for its end; all its messages."""
    ends = time.monotonic() + _DEADLINE_S
    reported = 0
    while True:
        try:
            child.wait(0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() > ends:
                raise ProcessError(f"mmdebstrap did not finish within {_DEADLINE_S:g} s") from None
        lines = messages.read_text(errors="replace").splitlines()
        for line in lines[reported:]:
            # Messages about signals concern its own helper processes.
            if report is not None and line.startswith("I: ") and "received signal" not in line:
                report(line.removeprefix("I: "))
        reported = len(lines)
        if child.returncode is not None:
            return lines


def _hint_for(message: str, work: Path) -> str | None:
    """The hint for mmdebstrap's messages. On a full disk it prints none: these cannot be written either."""
    low = message.lower()
    room = os.statvfs(work)
    full = full_disk_hint(
        os.strerror(errno.ENOSPC) if room.f_bavail * room.f_frsize < MIB else message, work.parent
    )
    if full is not None:
        return full
    if any(
        sign in low for sign in ("newuidmap", "unshare", "fakechroot", "fakeroot", "user namespace", "root")
    ):
        return (
            "unprivileged users need fakechroot and fakeroot (apt-get install fakechroot fakeroot), or uidmap"
        )
    if "unable to locate package" in low or "no installation candidate" in low:
        return "check the package names: apt-cache search WORD"
    if any(
        sign in low for sign in ("could not resolve", "failed to fetch", "could not connect", "timed out")
    ):
        return "check the suite, the package sources, and the network connection of this host"
    return None


def _configuration(diff_id: str, made_by: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    document = {
        "created": now,
        "architecture": ARCHITECTURE,
        "os": SYSTEM,
        "config": {"Cmd": ["bash"], "Env": [f"PATH={_PATH}"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": now, "created_by": made_by}],
    }
    return json.dumps(document).encode()
