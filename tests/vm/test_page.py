"""The page of the HTTP server in a real browser, on a real server with a real sandbox."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.paths import state_dir
from ballonet.serve.page_files import missing_libraries
from tests.browser import CHROMIUM, WHY_SKIPPED, Browser, Page, browser
from tests.serve_client import ServerProcess, new_token

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(CHROMIUM is None, reason=WHY_SKIPPED),
    pytest.mark.skipif(bool(missing_libraries()), reason="the page is not built: python hatch_build.py"),
]

BOX = "paged"
ROW = f'tr[data-name="{BOX}"]'
#: What a page may do that has the token of another one.
PROBES = """(async () => {
    const [address, token] = %s;
    const get = async (path, options) => {
        try { return (await fetch(address + path, options)).status; } catch (error) { return error.name; }
    };
    const headers = { Authorization: `Bearer ${token}` };
    const socket = new WebSocket(address.replace("http", "ws") + "/v1/sandboxes/x/execs/0/attach",
        ["ballonet.v1", `ballonet.token.${token}`]);
    const opened = await new Promise((resolve) => {
        socket.onopen = () => resolve(true);
        socket.onerror = () => resolve(false);
    });
    const script = document.createElement("script");
    const loaded = await new Promise((resolve) => {
        script.onload = () => resolve(true);
        script.onerror = () => resolve(false);
        script.src = `${address}/page/main.js`;
        document.head.append(script);
    });
    const frame = document.createElement("iframe");
    await new Promise((resolve) => {
        frame.onload = resolve;
        frame.src = `${address}/`;
        document.body.append(frame);
    });
    let framed = false;
    try { framed = frame.contentDocument !== null; } catch {}
    return {
        get: await get("/v1/sandboxes", { headers }),
        simple: await get("/v1/sandboxes"),
        post: await get("/v1/sandboxes/%s/stop", { method: "POST", headers, body: "{}" }),
        opened, loaded, framed,
    };
})()"""


@pytest.fixture(scope="module")
def token(server: ServerProcess) -> str:
    return new_token()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(server: ServerProcess) -> AsyncIterator[str]:
    script = "echo begun; echo bad >&2; exec sleep 1000000"
    settings = {"name": BOX, "memory": 384, "balloon": {"min": 128}, "command": ["sh", "-c", script]}
    async with server.local() as client:
        made = await client.post("/v1/sandboxes", json=settings)
        assert made.status_code == 201, made.text
        yield BOX
        assert (await client.delete(f"/v1/sandboxes/{BOX}?force=true")).status_code == 204


@pytest_asyncio.fixture(loop_scope="session")
async def page(server: ServerProcess, token: str, chromium: Browser, box: str) -> Page:
    """The page with a token, and the sandbox in its table."""
    opened = await chromium.open(f"{server.address}/")
    await opened.until("!document.querySelector('#login').hidden")
    await opened.type(token)
    await opened.press("Enter")
    await opened.until(f"document.querySelector('{ROW}') !== null")
    # Without a token, the browser reports the server's first answer.
    assert [each for each in opened.errors if "401" not in each] == []
    opened.errors.clear()
    return opened


async def test_a_target_moves_on_the_page(server: ServerProcess, page: Page) -> None:
    target, actual = (f"document.querySelector('{ROW} .{name}').textContent" for name in ("target", "actual"))
    async with server.local() as client:
        for mib in (256, 320):
            await client.put(f"/v1/sandboxes/{BOX}/balloon", json={"target": f"{mib}M"})
            await page.until(f"{target} === '{mib}'")
            await page.until(f"{actual} === '{mib}'")
    assert await page.value(f"document.querySelector('{ROW} path.target').getAttribute('d')")
    assert await page.value("document.querySelectorAll('#guests-plot canvas, #host-plot canvas').length") == 2
    assert page.errors == []


async def test_the_buttons_grow_and_shrink(page: Page) -> None:
    await page.click(f"{ROW} button")
    await page.until("document.querySelector('#plot canvas') !== null")
    target = f"Number(document.querySelector('{ROW} .target').textContent)"
    before = await page.value(target)
    await page.click("[data-action=shrink]")
    await page.until(f"{target} === {before - 48}")
    await page.until("document.querySelector('#message').innerText.includes('MiB now')")
    await page.click("[data-action=grow]")
    await page.until(f"{target} === {before}")
    assert page.errors == []


async def test_the_terminal_runs_a_shell_and_knows_its_size(page: Page) -> None:
    await page.click(f"{ROW} button")
    await page.click("#tab-terminal")
    await page.click("#terminal-open")
    await page.until("document.querySelector('#terminal-note').textContent.startsWith('Connected')")
    screen = "document.querySelector('.xterm-rows').innerText"
    await page.type("echo $((6 * 7))-$TERM; stty size")
    await page.press("Enter")
    await page.until(f"{screen}.includes('42-xterm-256color')")
    size = await page.until(rf"/\n(\d+ \d+)\s*\n/.exec({screen})?.[1]")
    await page.resize(390, 800)
    await page.type("stty size; echo again")
    await page.press("Enter")
    # The window is narrower, and the guest knows it.
    await page.until(rf"/(\d+ \d+)\s*\nagain/.exec({screen})?.[1]")
    assert await page.value(rf"/(\d+ \d+)\s*\nagain/.exec({screen})[1]") != size
    await page.press("F6", shift=True)
    assert await page.value("document.activeElement.id") == "terminal-close"
    await page.press("Enter")
    await page.until("document.querySelector('#terminal-note').textContent.includes('ended')")
    assert page.errors == []


async def test_a_lost_connection_continues_the_terminal(page: Page) -> None:
    await page.value(
        "{ const Real = WebSocket; window.sockets = [];"
        " window.WebSocket = class extends Real { constructor(...of) { super(...of); sockets.push(this); } }; }"
    )
    await page.click(f"{ROW} button")
    await page.click("#tab-terminal")
    await page.click("#terminal-open")
    screen = "document.querySelector('.xterm-rows').innerText"
    await page.until("document.querySelector('#terminal-note').textContent.startsWith('Connected')")
    await page.type("x=kept; echo be''gun")
    await page.press("Enter")
    await page.until(f"{screen}.includes('begun')")
    await page.value("sockets[0].close()")
    await page.until("sockets.length === 2 && sockets[1].readyState === 1")
    await page.type("echo still-$x")
    await page.press("Enter")
    await page.until(f"{screen}.includes('still-kept')")
    assert (await page.text(".xterm-rows")).count("begun") == 1
    await page.click("#terminal-close")


async def test_logs_and_decisions_are_shown(page: Page) -> None:
    directory = state_dir() / "pilot"
    directory.mkdir(exist_ok=True)
    decision = {
        "at": 1.5,
        "sandbox": BOX,
        "policy": "ballonet",
        "old_mib": 384,
        "target_mib": 256,
        "reason": "idle <b>now</b>",
        "inputs": {"quiet_s": 31.25},
    }
    (directory / "decisions.jsonl").write_text(json.dumps(decision) + "\n")
    try:
        await page.click(f"{ROW} button")
        await page.click("#tab-decisions")
        await page.until("document.querySelector('#decisions strong')?.textContent === '384 → 256 MiB'")
        assert "idle <b>now</b>" in await page.text("#decisions")  # as text
    finally:
        (directory / "decisions.jsonl").unlink()
    await page.press("ArrowRight")  # the focus is on the tab: the next one opens
    await page.until("!document.querySelector('#view-terminal').hidden")
    await page.click("#tab-logs")
    await page.until("document.querySelector('#logs').innerText.includes('begun')")
    await page.until("document.querySelector('#logs .stderr')?.textContent === '! bad\\n'")
    assert page.errors == []


async def test_the_page_fits_every_width_and_uses_no_other_server(server: ServerProcess, page: Page) -> None:
    await page.click(f"{ROW} button")
    for width in (390, 1280, 1920):
        await page.resize(width, 900, dark=width == 1280)
        await page.until(f"innerWidth === {width} && document.documentElement.scrollWidth <= innerWidth")
    names = await page.value("performance.getEntriesByType('resource').map((each) => each.name)")
    assert names and all(name.startswith(f"{server.address}/") for name in names), names
    assert await page.value("document.cookie") == ""


async def test_scripts_in_the_page_are_refused(page: Page) -> None:
    """Content-Security-Policy: neither inline scripts nor code in text run."""
    tried = """(async () => {
        const script = document.createElement("script");
        try { script.textContent = "window.ran = true"; document.head.append(script); } catch {}
        try { eval("window.ran = true"); } catch {}
        try { document.body.innerHTML = "<p>"; window.ran = true; } catch {}
        return window.ran === true;
    })()"""
    assert await page.value(tried) is False


async def test_a_page_of_another_origin_cannot_use_the_server(
    server: ServerProcess, token: str, chromium: Browser, box: str
) -> None:
    """Even one that has the token; it is on another port of the same host, which is the same site."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body>another site")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        opened = await chromium.open(f"http://127.0.0.1:{other.server_port}/")
        found = await opened.value(PROBES % (json.dumps([server.address, token]), BOX))
        other.shutdown()
    refused = {"get": "TypeError", "simple": "TypeError", "post": "TypeError"}
    assert found == refused | {"opened": False, "loaded": False, "framed": False}
    async with server.local() as client:
        assert (await client.get(f"/v1/sandboxes/{BOX}")).json()["state"] == "running"


async def test_a_token_that_is_not_valid_is_said_and_one_that_only_reads_cannot_stop(
    server: ServerProcess, chromium: Browser, box: str
) -> None:
    opened = await chromium.open(f"{server.address}/")
    await opened.until("!document.querySelector('#login').hidden")
    await opened.type("wrong")
    await opened.press("Enter")
    await opened.until("document.querySelector('#login-problem').textContent !== ''")
    await opened.type(await asyncio.to_thread(new_token, "--scope", "read"))
    await opened.press("Enter")
    await opened.click(f"{ROW} button")
    await opened.click("[data-action=shrink]")
    await opened.until("document.querySelector('#message-text').className === 'problem'")
    assert "needs a token with the scope use" in await opened.text("#message-text")


async def test_the_page_goes_on_after_a_restart_of_the_server(
    token: str, chromium: Browser, box: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with ServerProcess(tmp_path) as first:
        opened = await chromium.open(f"{first.address}/")
        await opened.until("!document.querySelector('#login').hidden")
        await opened.type(token)
        await opened.press("Enter")
        await opened.until(f"document.querySelector('{ROW}') !== null")
        first.kill()
    connection = "document.querySelector('#connection').textContent"
    await opened.until(f"{connection}.startsWith('Not connected')")
    port = first.address.rpartition(":")[2]
    with ServerProcess(tmp_path / "other", "--listen", f"127.0.0.1:{port}") as second:
        await opened.until(f"{connection} === 'Connected'")
        async with second.local() as client:
            await client.put(f"/v1/sandboxes/{BOX}/balloon", json={"target": "224M"})
        await opened.until(f"document.querySelector('{ROW} .target').textContent === '224'")


async def test_a_sandbox_is_stopped_and_started(page: Page) -> None:
    await page.click(f"{ROW} button")
    await page.click("[data-action=stop]")
    await page.until("document.querySelector('#confirm').open")
    await page.press("Enter")  # the default answer is no
    await page.until("!document.querySelector('#confirm').open")
    await page.click("[data-action=stop]")
    await page.click("#confirm-ok")
    state = f"document.querySelector('{ROW} .state').textContent"
    await page.until(f"{state} === 'stopped'")
    await page.click("[data-action=start]")
    await page.until(f"{state} === 'applied'")
    assert page.errors == []


async def test_a_sandbox_is_paused_and_resumed(page: Page) -> None:
    await page.click(f"{ROW} button")
    await page.click("[data-action=pause]")
    await page.click("#confirm-ok")
    state = f"document.querySelector('{ROW} .state').textContent"
    await page.until(f"{state} === 'paused'")
    await page.click("[data-action=resume]")
    await page.until(f"{state} === 'applied'")
    assert page.errors == []
