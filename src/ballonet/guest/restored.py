"""Makes a guest that was restored from a saved state its own, before anything else is asked of it."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from ballonet.base.errors import GuestBootError, GuestChannelError
from ballonet.guest.frames import Frame, FrameType
from ballonet.guest.messages import encode_restored

#: Random bytes for the guest's generator: twice what its key has.
_SEED_BYTES = 64


async def renew_guest(channel: socket.socket, timeout_s: float) -> None:
    """Send RESTORED, and wait until the agent answers. Its answer, READY, is left in ``channel``, as after a boot.

    :param channel: the guest's own channel, on which nothing was sent since the restore.
    :raises GuestBootError: the agent did not answer within ``timeout_s`` seconds.
    :raises GuestChannelError: the channel has ended.
    """
    payload = encode_restored(time.time_ns(), os.urandom(_SEED_BYTES))
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    channel.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            await loop.sock_sendall(channel, Frame(FrameType.RESTORED, 0, payload).encode())
            loop.add_reader(channel, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(channel)
        if not channel.recv(1, socket.MSG_PEEK):
            raise GuestChannelError("the restored guest has ended")
    except TimeoutError:
        raise GuestBootError(f"the restored guest did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise GuestChannelError(f"the channel to the restored guest broke: {error.strerror}") from error
