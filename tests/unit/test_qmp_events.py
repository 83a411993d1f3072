"""The last events of a QEMU that has ended."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

from ballonet.vmm.qemu.qmp import Qmp


def say(monitor: socket.socket, message: Mapping[str, object]) -> None:
    monitor.sendall(json.dumps(message).encode() + b"\r\n")


async def test_events_that_are_unread_at_the_end_of_qemu_are_handled() -> None:
    near, far = socket.socketpair()
    seen: list[str] = []

    def handle(name: str, data: Mapping[str, Any]) -> None:
        seen.append(f"{name} {data.get('reason')}")

    def answer() -> None:
        say(far, {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}})
        assert b"qmp_capabilities" in far.recv(4096)
        say(far, {"return": {}})

    qmp = Qmp("test", handle)
    await qmp.drained()  # nothing is connected
    with far:
        await asyncio.gather(qmp.connect(near), asyncio.to_thread(answer))
        for number in range(100):
            time = {"seconds": number, "microseconds": 0}
            say(far, {"event": "SHUTDOWN", "data": {"reason": f"{number}"}, "timestamp": time})
    assert seen == [], "the loop has not run since"
    await qmp.drained()
    assert seen == [f"SHUTDOWN {number}" for number in range(100)]
    await qmp.close()
