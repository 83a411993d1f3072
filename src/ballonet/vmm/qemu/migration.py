"""Saves and restores a VM through QEMU's migration, without its RAM.

With the capability ``x-ignore-shared``, QEMU leaves out RAM that is in a shared file, and its stream has only the state
of the devices. It goes through a socket whose other end QEMU has as a descriptor: ``-sandbox spawn=deny`` forbids
commands, and a path would have to be cleaned up.
"""

from __future__ import annotations

import asyncio
import socket

from ballonet.base.errors import EngineError
from ballonet.vmm.qemu.qmp import Qmp

#: How long QEMU may take for either direction (seconds). It takes milliseconds.
_TIMEOUT_S = 60.0
#: How often its progress is read (seconds).
_LOOK_S = 0.002
_FD_NAME = "state"


async def save_devices(qmp: Qmp) -> bytes:
    """The state of the devices of a stopped VM, which can continue afterwards.

    :raises EngineError: QEMU could not save it.
    """
    await _leave_out_ram(qmp)
    near, far = socket.socketpair()
    with near:
        with far:
            await qmp.send_descriptor(_FD_NAME, far.fileno())
            await qmp.execute("migrate", uri=f"fd:{_FD_NAME}")
        near.setblocking(False)
        saved = bytearray()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while piece := await asyncio.get_running_loop().sock_recv(near, 1 << 18):
                    saved += piece
                while True:
                    answer = await qmp.execute("query-migrate")
                    if answer.get("status") not in ("active", "device"):
                        break
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            await qmp.execute("migrate_cancel")
            raise EngineError(f"QEMU did not save its devices within {_TIMEOUT_S:g} s") from error
    if answer.get("status") != "completed":
        raise EngineError(
            f"QEMU did not save its devices: {answer.get('error-desc') or answer.get('status')}"
        )
    return bytes(saved)


async def restore_devices(qmp: Qmp, device: bytes, near: socket.socket, far: int) -> None:
    """Give a QEMU that waits for a state (``-incoming defer``) the state of its devices. The VM is stopped then.

    :param near: the other end of ``far``; closed.
    :param far: the number of the descriptor that QEMU has inherited.
    :raises EngineError: QEMU did not take the state; it has usually ended.
    """
    with near:
        await _leave_out_ram(qmp)
        await qmp.execute("migrate-incoming", uri=f"fd:{far}")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                near.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(near, device)
                near.shutdown(socket.SHUT_WR)
                while True:
                    if (await qmp.execute("query-status"))["status"] != "inmigrate":
                        break
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise EngineError(f"QEMU did not restore its devices within {_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise EngineError(f"QEMU did not take the saved state: {error.strerror}") from error


async def _leave_out_ram(qmp: Qmp) -> None:
    await qmp.execute(
        "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}]
    )
