"""ballonet: microVM sandboxes whose memory breathes.

``from ballonet import Sandbox`` is the SDK without asyncio, ``AsyncSandbox`` the one with it. Nothing is loaded before
it is used.
"""

from __future__ import annotations

from ballonet.version import __version__

TYPE_CHECKING = (
    False  # as type checkers read it; the module that has it takes longer to load than all the rest
)
if TYPE_CHECKING:
    from ballonet.base.errors import BallonetError as BallonetError
    from ballonet.sdk.builder import SandboxBuilder as SandboxBuilder
    from ballonet.sdk.creation import Balloon as Balloon
    from ballonet.sdk.pool import Pool as AsyncPool
    from ballonet.sdk.sandbox import ExecResult as ExecResult
    from ballonet.sdk.sandbox import Sandbox as AsyncSandbox
    from ballonet.sdk.sandbox import SandboxEnd as SandboxEnd
    from ballonet.sdk.snapshots import Snapshots as Snapshots
    from ballonet.sdk.sync import Sandbox as Sandbox
    from ballonet.sdk.sync_pool import Pool as Pool
    from ballonet.settings.config import SandboxConfig as SandboxConfig

__all__ = [
    "AsyncPool",
    "AsyncSandbox",
    "BallonetError",
    "Balloon",
    "ExecResult",
    "Pool",
    "Sandbox",
    "SandboxBuilder",
    "SandboxConfig",
    "SandboxEnd",
    "Snapshots",
    "__version__",
]

#: What a program holds: where each name is, and what it is called there.
_PLACES = {
    "AsyncPool": ("ballonet.sdk.pool", "Pool"),
    "AsyncSandbox": ("ballonet.sdk.sandbox", "Sandbox"),
    "Balloon": ("ballonet.sdk.creation", "Balloon"),
    "BallonetError": ("ballonet.base.errors", "BallonetError"),
    "ExecResult": ("ballonet.sdk.sandbox", "ExecResult"),
    "Pool": ("ballonet.sdk.sync_pool", "Pool"),
    "Sandbox": ("ballonet.sdk.sync", "Sandbox"),
    "SandboxBuilder": ("ballonet.sdk.builder", "SandboxBuilder"),
    "SandboxConfig": ("ballonet.settings.config", "SandboxConfig"),
    "SandboxEnd": ("ballonet.sdk.sandbox", "SandboxEnd"),
    "Snapshots": ("ballonet.sdk.snapshots", "Snapshots"),
}


def __getattr__(name: str) -> object:
    """Load what is asked for (PEP 562)."""
    try:
        module, attribute = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module 'ballonet' has no attribute {name!r}") from None
    from importlib import import_module

    found: object = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
