"""Listens and serves until a signal. The sandboxes do not depend on this process: it may end and start at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import BindError, BusyError, ConfigError
from ballonet.base.paths import data_dir, private_dir, run_dir
from ballonet.control.socketfile import ControlSocket, bind_control_socket
from ballonet.serve.app import HERE, Endpoints, application
from ballonet.serve.extension import Extension
from ballonet.serve.gate import Counter, Gate
from ballonet.serve.request_checks import is_address
from ballonet.serve.services import Limits, Services
from ballonet.serve.tokens import TokenFile

log = logging.getLogger(__name__)

#: How long responses may go on when the server stops (seconds).
_GRACE_S = 5
_BACKLOG = 512
#: The largest message of a WebSocket (bytes).
_MAX_MESSAGE = 1 << 20
#: Send buffers are not enlarged: a client that does not read holds no more than this in the kernel (bytes).
_SEND_BUFFER = 256 << 10


@dataclass(frozen=True)
class Settings:
    """How to serve.

    :param unix: the path of the Unix socket; ``None``: no Unix socket.
    :param addresses: addresses and ports to listen on.
    """

    unix: Path | None
    addresses: tuple[tuple[str, int], ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()


def default_socket() -> Path:
    """The path of the Unix socket by default: in the run directory. Its directory is created."""
    return private_dir(run_dir() / ".serve") / "http.sock"


class _Server(uvicorn.Server):
    """A server that leaves signals alone, and wakes up once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        while not self._stop.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1.0)


async def serve(
    settings: Settings,
    ready: Callable[[str], None],
    extensions: Sequence[Extension] = (),
    endpoints: Endpoints = HERE,
) -> None:
    """Serve until SIGTERM or SIGINT.

    :param ready: called with the address of each listener, once all of them listen.
    :param extensions: what is served besides the API.
    :param endpoints: the API itself: by default that of this host.
    :raises ConfigError: the settings are not safe, or do not fit together.
    :raises BindError: an address cannot be listened on; nothing is left behind.
    """
    tokens = TokenFile.open()
    check_safe(settings, tokens)
    context = _tls(settings)
    stop = asyncio.Event()
    with contextlib.ExitStack() as opened:
        unix = None if settings.unix is None else opened.enter_context(_unix(settings.unix))
        listeners = [opened.enter_context(_listen(*address)) for address in settings.addresses]
        if context is None and not all(is_loopback(host) for host, _ in settings.addresses):
            log.warning("tokens are sent without encryption: give --tls-cert and --tls-key")
        services = Services(private_dir(data_dir() / endpoints.directory), settings.limits)
        loop = asyncio.get_running_loop()

        def stopping() -> None:
            services.stopping.set()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping)
        app, counter = application(services, extensions, endpoints), Counter(settings.limits.requests)
        names = frozenset(name.lower().rstrip(".") for name in settings.host_names)
        servers = []
        if unix is not None:
            gate = Gate(app, counter, None, origins=settings.origins)
            servers.append((_Server(_config(gate), stop), [unix.socket]))
        if listeners:
            gate = Gate(app, counter, tokens, hosts=names, origins=settings.origins)
            servers.append((_Server(_config(gate, context), stop), listeners))
        try:
            async with contextlib.AsyncExitStack() as extended:
                for extension in extensions:
                    await extended.enter_async_context(extension.running(services.stopping))
                running = [asyncio.ensure_future(server.serve(sockets)) for server, sockets in servers]
                while not all(server.started for server, _ in servers):
                    await asyncio.wait(running, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
                if settings.unix is not None:
                    ready(f"unix:{settings.unix}")
                scheme = "http" if context is None else "https"
                for listener in listeners:
                    host, port = listener.getsockname()[:2]
                    ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
                await asyncio.gather(*running)
        finally:
            await services.close()


def check_safe(settings: Settings, tokens: TokenFile) -> None:
    """:raises ConfigError: other hosts could connect, and there is no token; or settings contradict each other."""
    import time

    if settings.unix is None and not settings.addresses:
        raise ConfigError("nothing to listen on", hint="leave out --no-socket, or give --listen ADDRESS:PORT")
    if (settings.certificate is None) != (settings.key is None):
        raise ConfigError("--tls-cert and --tls-key need each other")
    if settings.certificate is not None and not settings.addresses:
        raise ConfigError("--tls-cert is for --listen: a Unix socket needs no encryption")
    for host, port in settings.addresses:
        if not is_address(host) and host != "localhost":
            raise ConfigError(
                f"--listen {host}:{port}: {host!r} is not an address", hint="for example 127.0.0.1:8080"
            )
        if not is_loopback(host) and not tokens.usable(time.time()):
            raise ConfigError(
                f"--listen {host}:{port} would let other hosts connect, and there is no valid token",
                hint="create one: ballonet token create",
            )


def is_loopback(host: str) -> bool:
    """Whether only this host can connect to the address."""
    import ipaddress

    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _config(app: Gate, context: ssl.SSLContext | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="websockets-sansio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        loop="none",
        backlog=_BACKLOG,
        ws_max_size=_MAX_MESSAGE,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=64 << 10,
        ssl_context_factory=None if context is None else (lambda _config, _default: context),
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except OSError as error:  # also ssl.SSLError
        raise ConfigError(
            f"--tls-cert {settings.certificate} with --tls-key {settings.key} cannot be used: {error}",
            hint="give PEM files: the certificate with its chain, and its key without a password",
        ) from error
    return context


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[ControlSocket]:
    try:
        bound = bind_control_socket(path)
    except BusyError as error:
        raise BusyError(
            f"cannot listen on {path}: another server does", hint="stop it, or give --socket another path"
        ) from error
    except BindError as error:
        _, _, cause = error.message.partition(": ")
        raise BindError(f"cannot listen on {path}: {cause}", hint=error.hint) from error
    bound.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    try:
        yield bound
    finally:
        bound.close()
        with contextlib.suppress(OSError):
            if path.parent.name == ".serve":
                path.parent.rmdir()


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BindError(
            f"cannot listen on {host}:{port}: {error.strerror or error}", hint="choose another port"
        ) from error
    with listener:
        yield listener
