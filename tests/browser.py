"""A real browser for tests: headless Chromium, driven over the Chrome DevTools Protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

#: The program, by the names that distributions give it.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY_SKIPPED = "there is no Chromium here: apt install chromium"

_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
_KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "ArrowDown": (40, ""), "ArrowRight": (39, ""), "F6": (117, "")}


class PageError(AssertionError):
    """A script in the page failed."""


@contextlib.asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Browser]:
    """A browser with a profile in ``directory``; ends with the ``async with`` block."""
    assert CHROMIUM is not None, WHY_SKIPPED
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *_FLAGS,
        *root,
        f"--user-data-dir={directory / 'profile'}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = []
    try:
        while line := (await process.stderr.readline()).decode():
            said.append(line)
            if "DevTools listening on " in line:
                break
        else:
            raise AssertionError("Chromium has ended: " + "".join(said))
        drain = asyncio.create_task(process.stderr.read())
        async with connect(line.split(" on ")[1].strip(), max_size=None) as socket:
            running = Browser(socket)
            reading = asyncio.create_task(running.read())
            try:
                yield running
            finally:
                reading.cancel()
        drain.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


class Browser:
    """A running browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """Open an address in a tab of a context of its own, and wait until it has loaded."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        page = Page(self, attached["sessionId"])
        self._pages[attached["sessionId"]] = page
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        await page.resize(width, height, dark=dark)
        await page.go(address)
        return page

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        message = {"id": number, "method": method, "params": parameters}
        await self._socket.send(json.dumps(message | ({} if session is None else {"sessionId": session})))
        return await future

    async def read(self) -> None:
        """Receive answers and events, until the browser ends."""
        async for raw in self._socket:
            message = json.loads(raw)
            if "id" in message:
                future = self._waiting.pop(message["id"])
                if future.done():
                    continue
                if "error" in message:
                    future.set_exception(PageError(message["error"]["message"]))
                else:
                    future.set_result(message["result"])
            elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                page.on_event(message["method"], message["params"])


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = asyncio.Event()
        #: Exceptions of scripts, and what the browser has refused or could not load.
        self.errors: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.call(method, self._session, **parameters)

    def on_event(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    async def go(self, address: str) -> None:
        self._loaded.clear()
        done = await self.call("Page.navigate", url=address)
        assert "errorText" not in done, done["errorText"]
        await self._loaded.wait()

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the size of the window, and the user's preference."""
        phone = width < 700
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[feature])

    async def value(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        done = await self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    async def until(self, script: str, timeout_s: float = 120) -> Any:
        """The value of an expression as soon as it is true.

        :raises AssertionError: it did not become true; the message has what the page shows.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    # A page that is loading has no script context.
                    with contextlib.suppress(PageError):
                        if found := await self.value(script):
                            return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.value("document.body.innerText")
            raise AssertionError(f"not true: {script}\nerrors: {self.errors}\npage: {shown}") from None

    async def click(self, selector: str) -> None:
        """Click an element as a person does, where it is on the screen, once it does not move any more."""
        at = await self.until(
            f"""(async () => {{
                const found = document.querySelector({json.dumps(selector)});
                if (!found || found.disabled) return null;
                found.scrollIntoView({{ block: "center" }});
                const place = () => {{
                    const {{ x, y, width, height }} = found.getBoundingClientRect();
                    return width === 0 ? null : [x + width / 2, y + height / 2];
                }};
                const before = place();
                await new Promise((resolve) => setTimeout(resolve, 100));
                const now = place();
                const still = now && String(now) === String(before);
                return still && found.contains(document.elementFromPoint(...now)) && now;
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1
            )

    async def type(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key that is not a letter."""
        code, text = _KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common
        )
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def text(self, selector: str = "body") -> str:
        """The text that an element shows."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page as a PNG file."""
        done = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))
