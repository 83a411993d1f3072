"""Runs the code of a session in Python 3.7 or later (docs/agent.md); with IPython's shell if that can be imported.

Requests arrive on descriptor 3, one JSON object on each line; what is said there is JSON, too. Standard output and
standard error belong to the code. This file is copied to the guest, and uses nothing of ballonet.
"""

from __future__ import annotations
import __future__

import ast
import base64
import fcntl
import importlib
import io
import json
import linecache
import os
import queue
import re
import signal
import sys
import termios
import threading
import time
import traceback
import warnings
from typing import Any

_CHANNEL = 3
#: The largest picture or other result that is sent (bytes of its JSON).
_MAX_RESULT = 32 << 20
#: How long a result waits for output that was written before it (seconds).
_ORDER_S = 0.5
#: An interrupt within this time after another one counts as the same (seconds).
_INTERRUPT_S = 0.05
_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}
_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag
#: The name under which matplotlib imports the class below.
_FIGURES = "ballonet_figures"


class Channel:
    """The connection to the session, out of reach of the code's own descriptors and children."""

    def __init__(self, fd: int) -> None:
        self._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)
        os.close(fd)
        self._pid = os.getpid()
        self._unread = b""
        # An interrupt may come at any point, but only in the main thread: it never leaves half a line behind.
        self._unsaid: Any = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    @property
    def is_ours(self) -> bool:
        """Whether this is not a child that the code has forked."""
        return os.getpid() == self._pid

    def read_line(self) -> bytes:
        """The next line; empty when the session has ended."""
        parts = [self._unread]
        while b"\n" not in parts[-1]:
            piece = os.read(self._fd, 1 << 16)
            if not piece:
                return b""
            parts.append(piece)
        line, _, self._unread = b"".join(parts).partition(b"\n")
        return line

    def say(self, kind: str, words: dict[str, Any]) -> None:
        text = json.dumps(words)
        if len(text) > _MAX_RESULT:
            note = f"(a result of {len(text)} bytes, which is too large to be sent)"
            text = json.dumps(dict(words, data={"text/plain": note}))
        if self.is_ours:
            said = threading.Event()
            self._unsaid.put((f"{kind} {text}\n".encode(), said))
            said.wait()

    def _write(self) -> None:
        while True:
            line, said = self._unsaid.get()
            left = memoryview(line)
            try:
                while left:
                    left = left[os.write(self._fd, left) :]
            except OSError:
                os._exit(0)  # the session has ended
            said.set()


def flush() -> None:
    """Let the session read what was written, so that what is said next comes after it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    ends = time.monotonic() + _ORDER_S
    for fd in (1, 2):
        waiting = bytearray(4)
        try:
            while (
                fcntl.ioctl(fd, termios.FIONREAD, waiting) == 0 and any(waiting) and time.monotonic() < ends
            ):
                time.sleep(0.001)
        except OSError:
            continue


def text_of(make: Any, value: Any) -> str:
    try:
        return str(make(value))
    except Exception as error:
        return f"<{type(value).__name__}, which cannot be shown: {type(error).__name__}>"


def coded(mime: str, value: Any) -> Any:
    """A representation as JSON can have it: pictures as base64."""
    if isinstance(value, tuple):
        value = value[0]  # with metadata
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if mime == "application/json":
        return json.loads(json.dumps(value))
    return value if isinstance(value, str) else str(value)


def picture_of(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def is_figure(value: Any) -> bool:
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def represent(value: Any) -> dict[str, Any]:
    """All representations that a value offers, by MIME type. What its methods raise is written to standard error."""
    data: dict[str, Any] = {"text/plain": repr(value)}
    if is_figure(value):
        data["image/png"] = picture_of(value)
    if isinstance(value, type):
        return data
    bundle = getattr(value, "_repr_mimebundle_", None)
    found: dict[str, Any] = {}
    try:
        made = bundle() if callable(bundle) else None
        found.update(made[0] if isinstance(made, tuple) else made or {})
        for mime, name in _METHODS.items():
            method = getattr(value, name, None)
            if mime not in found and callable(method):
                found[mime] = method()
        data.update({mime: coded(mime, each) for mime, each in found.items() if each is not None})
    except Exception:
        traceback.print_exc()
    return data


class Figures:
    """Finds the module that is matplotlib's backend: figures become pictures when they are shown, or at the end."""

    def __init__(self, show: Any) -> None:
        self._show = show

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _FIGURES:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        from matplotlib.backend_bases import FigureManagerBase, _Backend
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        def show(*args: Any, **kwargs: Any) -> None:
            self._show()

        body = {"FigureCanvas": FigureCanvasAgg, "FigureManager": FigureManagerBase, "__module__": _FIGURES}
        _Backend.export(type("Backend", (_Backend,), body))
        module.show = show


class Plain:
    """Python as ``python -i`` has it, in the module ``__main__``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._flags = getattr(ast, "PyCF_ALLOW_TOP_LEVEL_AWAIT", 0)
        self._loop: Any = None
        module = type(sys)("__main__")
        self.namespace: Any = module.__dict__
        self.namespace["display"] = self.display
        sys.modules["__main__"] = module

    def display(self, *values: Any) -> None:
        for value in values:
            self._kernel.show("display", represent(value))

    def run(self, code: str, name: str) -> None:
        lines = code.splitlines(True)
        linecache.cache[name] = (len(code), None, lines, name)
        tree = ast.parse(code, name)
        last: Any = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._evaluate(tree, name, "exec")
        if last is not None:
            value = self._evaluate(ast.Expression(last.value), name, "eval")
            if value is not None and not code.rstrip().endswith(";"):
                self.namespace["_"] = value
                self._kernel.value(value, represent(value))

    def _evaluate(self, tree: Any, name: str, mode: str) -> Any:
        compiled = compile(tree, name, mode, self._flags, True)
        self._flags |= compiled.co_flags & _FUTURE
        value = eval(compiled, self.namespace)  # noqa: S307  # what this program is for
        if not compiled.co_flags & 0x80:  # inspect.CO_COROUTINE: there is an await at the top level
            return value
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(value)


class Kernel:
    """Takes requests one after the other, and answers each."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._shown: list[Any] = []
        self._runs = 0
        self._on_interrupt: Any = self._interrupt
        self._interrupted_at = 0.0
        signal.signal(signal.SIGINT, self._ignore)
        sys.meta_path.append(Figures(self.show_figures))
        os.environ.setdefault("MPLBACKEND", f"module://{_FIGURES}")
        self.runner: Any = None

    @staticmethod
    def _ignore(number: int, frame: Any) -> None:
        """A handler and not SIG_IGN, which children would inherit."""

    def _interrupt(self, number: int, frame: Any) -> None:
        """Raise KeyboardInterrupt, but not again while the last one is being handled."""
        now = time.monotonic()
        if now - self._interrupted_at > _INTERRUPT_S:
            self._interrupted_at = now
            raise KeyboardInterrupt

    def show(self, kind: str, data: dict[str, Any]) -> None:
        flush()
        self._channel.say("m", {"kind": kind, "data": data})

    def value(self, value: Any, data: dict[str, Any]) -> None:
        if is_figure(value):
            self._shown.append(value)
        self.show("value", data)

    def show_figures(self) -> None:
        """Send the figures of pyplot that were not sent, and close them."""
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        pyplot = sys.modules.get("matplotlib.pyplot")
        if helpers is None or pyplot is None:
            return
        for manager in list(helpers.Gcf.get_all_fig_managers()):
            figure = manager.canvas.figure
            if not any(figure is each for each in self._shown):
                self.show("display", {"text/plain": repr(figure), "image/png": picture_of(figure)})
            pyplot.close(figure)

    def run(self, request: dict[str, Any]) -> None:
        self._runs += 1
        self._shown = []
        self._interrupted_at = 0.0  # that of the run before has been handled
        raised: Any = None
        begun = False
        while True:  # an interrupt may come here, too
            try:
                if not begun:
                    begun = True
                    signal.signal(signal.SIGINT, self._on_interrupt)
                    self.runner.run(request["code"], f"<run {self._runs}>")
                    self.show_figures()
                # The code may have set a handler of its own, which the next run gets.
                self._on_interrupt = signal.getsignal(signal.SIGINT) or self._interrupt
                signal.signal(signal.SIGINT, self._ignore)
                break
            except BaseException as error:
                raised = raised or error
        failure = None if raised is None else self.described(raised)
        flush()
        if not self._channel.is_ours:
            os._exit(0)
        self._channel.say("d", {"id": request["id"], "error": failure})

    def described(self, error: BaseException) -> dict[str, str]:
        trace = getattr(error, "_ballonet_traceback", None)
        if trace is None:
            frames = error.__traceback__
            while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
                frames = frames.tb_next
            trace = "".join(traceback.format_exception(type(error), error, frames))
        return {"name": type(error).__name__, "message": text_of(str, error), "traceback": trace}

    def serve(self) -> None:
        while True:
            line = self._channel.read_line()
            if not line:
                return
            self.run(json.loads(line))


def ipython(kernel: Kernel) -> Any:
    """IPython's shell, with its results and tracebacks sent as data. ``None``: it cannot be imported."""
    try:
        core = [importlib.import_module(f"IPython.core.{name}") for name in ("displayhook", "displaypub")]
        InteractiveShell: Any = importlib.import_module("IPython.core.interactiveshell").InteractiveShell  # noqa: N806
        config = importlib.import_module("traitlets.config").Config()
    except Exception:
        return None

    warnings.filterwarnings("ignore", "To exit: use")  # what IPython says of SystemExit

    def encoded(data: dict[str, Any]) -> dict[str, Any]:
        return {mime: coded(mime, each) for mime, each in data.items()}

    class Publisher(core[1].DisplayPublisher):  # type: ignore[misc]
        def publish(self, data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            kernel.show("display", encoded(data))

        def clear_output(self, wait: bool = False) -> None:
            pass

    class Hook(core[0].DisplayHook):  # type: ignore[misc]
        def __call__(self, result: Any = None) -> None:
            self.check_for_underscore()
            if result is None or self.quiet():
                return
            data = encoded(self.compute_format_data(result)[0])
            if is_figure(result) and "image/png" not in data:
                data["image/png"] = picture_of(result)
            self.update_user_ns(result)
            self.fill_exec_result(result)
            kernel.value(result, data)

    class Shell(InteractiveShell):  # type: ignore[misc]
        system = InteractiveShell.system_raw  # the other one needs a terminal
        last_trace: Any = None

        def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
            self.last_trace = re.sub(r"\x1b\[[0-9;]*m", "", self.InteractiveTB.stb2text(stb))

        def ask_exit(self) -> None:
            raise SystemExit

        def run(self, code: str, name: str) -> None:
            self.last_trace = None
            done = self.run_cell(code, store_history=True)
            error = done.error_before_exec or done.error_in_exec
            if error is not None:
                if self.last_trace is not None:
                    error._ballonet_traceback = self.last_trace
                raise error

    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Plain"  # as Python's; the others load more than all the rest
    return Shell.instance(config=config, display_pub_class=Publisher, displayhook_class=Hook)


def main() -> None:
    sys.path[0] = ""  # as with 'python -c': the working directory, and not that of this file
    kernel = Kernel(Channel(_CHANNEL))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    kernel.runner = ipython(kernel) or Plain(kernel)
    ready = {"id": 0, "version": sys.version.split()[0], "ipython": not isinstance(kernel.runner, Plain)}
    kernel._channel.say("d", ready)
    kernel.serve()


main()
