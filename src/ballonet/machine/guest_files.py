"""The files that a sandbox's guest boots. Separate from :mod:`ballonet.machine.build`, which loads the engine."""

from __future__ import annotations

from collections.abc import Callable

from ballonet.guest.bundle import GuestBundle, prepare_guest
from ballonet.machine.guest_setup import needed_modules, root_kind
from ballonet.vmm.config import VmConfig


def guest_for(config: VmConfig, *, report: Callable[[str], None] | None = None) -> GuestBundle:
    """The files that a guest of ``config`` boots, found or made.

    :param report: called with one line of text about each step that takes time.
    :raises HostError: the guest's kernel or programs cannot be obtained, or its root cannot be used.
    """
    return prepare_guest(extra_modules=needed_modules(config, root_kind(config.root)), report=report)
