"""The HTTP API of one host for a server of the whole cluster: ``ballonet serve`` at a Unix socket of the agent's own.

It is started when it is first asked for, and ends with the agent. Sandboxes do not depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

from ballonet.base.errors import HostError, ProcessError
from ballonet.base.paths import private_dir, run_dir, state_dir
from ballonet.base.process import spawn

#: How long it may take to listen (seconds).
_START_S = 60.0
#: How long a connection to it may take (seconds).
_CONNECT_S = 10.0
#: A server that no longer listens has ended after this time (seconds).
_ENDING_S = 0.2


class HostServer:
    """The server of this host. Methods are called in the thread of one event loop, which lives as long as the agent."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server, which is started if it does not run.

        :raises HostError: it does not start, or does not answer.
        """
        try:
            return await self._connect_once()
        except (OSError, TimeoutError):
            await asyncio.sleep(_ENDING_S)
        try:
            return await self._connect_once()
        except (OSError, TimeoutError) as error:
            raise HostError(f"its HTTP server cannot be reached: {error or 'no answer'}") from error

    async def _connect_once(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = private_dir(run_dir() / ".serve") / "cluster.sock"
        async with self._turn:
            if self._process is None or self._process.poll() is not None:
                await self._start(str(path))
        return await asyncio.wait_for(asyncio.open_unix_connection(path), _CONNECT_S)

    async def _start(self, path: str) -> None:
        log_path = private_dir(state_dir() / "cluster") / "serve.log"
        words = [sys.executable, "-P", "-m", "ballonet", "serve", "--socket", path]
        try:
            with log_path.open("wb") as log:
                process = spawn(words, stdout=subprocess.PIPE, stderr=log.fileno(), die_with_parent=True)
        except (OSError, ProcessError) as error:
            raise HostError(f"its HTTP server cannot be started: {error}") from error
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), _START_S)
        except BaseException as error:
            process.kill()
            await asyncio.to_thread(process.wait)
            if not isinstance(error, TimeoutError):
                raise
            line = b""
        finally:
            process.stdout.close()
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _CONNECT_S)
            words_of_it = log_path.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
            raise HostError(
                f"its HTTP server did not start: {words_of_it[0].removeprefix('ballonet: ')}"[:400],
                hint=f"{log_path} on that host has its messages",
            )
        self._process = process

    async def close(self) -> None:
        """End it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            await asyncio.to_thread(process.wait)
