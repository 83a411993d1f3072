"""The engine that ballonet uses. Another one is a package beside ``qemu`` and a change of the import below."""

from __future__ import annotations

from ballonet.vmm.qemu.engine import Qemu as DefaultEngine

__all__ = ["DefaultEngine"]
