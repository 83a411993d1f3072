"""What a sandbox's guest boots from, by its configuration. Apart from the engine: a program that only starts one needs
no monitor."""

from __future__ import annotations

from collections.abc import Callable

from ballonet.guest.bundle import GuestBundle, prepare_guest
from ballonet.machine.guest_setup import needed_modules, root_kind
from ballonet.vmm.config import VmConfig


def guest_for(config: VmConfig, *, report: Callable[[str], None] | None = None) -> GuestBundle:
    """What a guest of ``config`` boots from, found or made.

    :param report: told in one line what takes time.
    :raises HostError: the guest's kernel or programs cannot be had, or its root cannot be used.
    """
    return prepare_guest(extra_modules=needed_modules(config, root_kind(config.root)), report=report)
