"""Code sessions in real guests: with Python from an image, and in the built-in root."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet import sync
from ballonet.base.code_errors import CodeSessionEndedError, CodeTimeoutError
from ballonet.base.errors import (
    ConfigError,
    GuestCommandError,
    GuestPausedError,
    NotRunningError,
    StillRunningError,
)
from ballonet.lifecycle.record import State
from ballonet.sdk.sandbox import Sandbox

#: The image may have to be built, which installs some 130 packages.
pytestmark = [pytest.mark.extended, pytest.mark.timeout(900)]
#: Generous: it only ends tests that would hang.
WAIT_S = 120
CLI = [sys.executable, "-P", "-m", "ballonet"]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(guest: object, code_image: str) -> AsyncIterator[Sandbox]:
    """One guest for all tests that leave it usable."""
    async with await Sandbox.create(
        "coder", image=code_image, memory="1G", env={"GREETING": "hello"}
    ) as running:
        yield running


async def test_python_keeps_its_state_and_gives_pictures(box: Sandbox) -> None:
    async with await box.code("python") as session:
        assert (await session.run("import os; x = 1")).ok
        assert (await session.run("print(os.environ['GREETING'], os.getuid()); x + 1")).stdout == "hello 0\n"
        assert (await session.run("get_ipython() is not None")).text == "True"
        drawn = await session.run("import matplotlib.pyplot as plt; plt.plot([1, 3, 2]);", timeout=WAIT_S)
        assert drawn.error is None, drawn.error.traceback
        assert [picture[:8] for picture in drawn.pictures] == [b"\x89PNG\r\n\x1a\n"]
        failed = await session.run("1 / 0")
        assert failed.error is not None
        assert failed.error.name == "ZeroDivisionError"
        with pytest.raises(CodeTimeoutError) as caught:
            await session.run("x = 5\nwhile True: pass", timeout=2)
        assert not caught.value.restarted
        assert (await session.run("x")).text == "5"
        name = session.name
    with pytest.raises(CodeSessionEndedError):
        await session.run("1")
    assert not await box.fs.exists(f"/dev/shm/ballonet-code-0/{name}")


async def test_several_languages_and_users_at_once(box: Sandbox) -> None:
    async with (
        await box.code("python", user="1000", cwd="/tmp") as python,
        await box.code("sh") as sh,
        await box.code("bash", env={"GREETING": "hi"}) as bash,
    ):
        code = "import os; os.getuid(), os.getcwd()"
        found = await asyncio.gather(
            python.run(code), sh.run("cd /usr; id -u"), bash.run("a=(1 2); echo $GREETING")
        )
        assert found[0].text == "(1000, '/tmp')"
        assert [each.stdout for each in found[1:]] == ["0\n", "hi\n"]
        assert (await sh.run("pwd")).stdout == "/usr\n"
        assert (await bash.run("echo ${a[1]}")).stdout == "2\n"
        again = await box.code("sh", session=sh.name)
        assert (await again.run("pwd")).stdout == "/usr\n"
        with pytest.raises(ConfigError, match=f"'{sh.name}' has the language sh, not bash"):
            await box.code("bash", session=sh.name)


async def test_a_process_that_the_guest_kills_for_memory_is_told(box: Sandbox) -> None:
    async with await box.code("python") as session:
        hog = "open('/proc/self/oom_score_adj', 'w').write('1000')\n"
        hog += "keep = [bytearray(b'x' * (1 << 20)) for _ in range(4000)]"
        with pytest.raises(CodeSessionEndedError, match="was killed by SIGKILL") as caught:
            await session.run(hog)
        assert "memory runs out" in str(caught.value.hint)
        await session.restart()
        assert (await session.run("1")).text == "1"


async def test_what_an_image_does_not_have_is_told_with_what_to_do(box: Sandbox) -> None:
    with pytest.raises(GuestCommandError, match="sandbox 'coder' has no node") as caught:
        await box.code("node")
    assert "node:22-slim" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="no language 'pyhton'") as caught_config:
        await box.code("pyhton")
    assert "did you mean 'python'" in str(caught_config.value.hint)
    with pytest.raises(ConfigError, match=r"session '\.\./x' is not a valid name"):
        await box.code(session="../x")


async def test_the_command_runs_code_and_keeps_a_named_session(
    box: Sandbox, ballonet: Call, tmp_path: Path
) -> None:
    first = ballonet("code", "coder", "--session", "work", "-", stdin="x = 20\nprint('set')\nx + 1\n")
    assert (first.returncode, first.stdout, first.stderr) == (0, "set\n21\n", "")
    file = tmp_path / "code.py"
    file.write_text("import matplotlib.pyplot as plt\nplt.plot([x])\nplt.show()\nraise KeyError(x)\n")
    second = ballonet("code", "coder", "--session", "work", "--pictures", str(tmp_path), str(file))
    assert second.returncode == 1
    assert "KeyError: 20" in second.stderr
    assert (tmp_path / "1.png").read_bytes().startswith(b"\x89PNG")
    late = ballonet(
        "code", "coder", "--session", "work", "--close", "--timeout", "2", "-", stdin="while True: pass"
    )
    assert late.returncode == 124
    assert "did not end within its timeout of 2 s and was interrupted" in late.stderr
    gone = ballonet("code", "coder", "--session", "work", "--close", "-", stdin="x")
    assert gone.returncode == 1
    assert "NameError" in gone.stderr
    shell = ballonet(
        "code",
        "--lang",
        "sh",
        "coder",
        "-",
        stdin="echo out; echo err >&2; exit_status() { return 7; }; exit_status",
    )
    assert (shell.returncode, shell.stdout, shell.stderr) == (7, "out\n", "err\n")
    assert ballonet("code", "coder", "--lang", "node", "-", stdin="1").returncode == 127


async def test_an_interrupted_command_interrupts_its_code(box: Sandbox) -> None:
    async with await box.code("python", session="kept") as session:
        words = [*CLI, "code", "coder", "--session", "kept", "-"]
        code = b"x = 9\nprint('begun', flush=True)\nwhile True: pass\n"
        process = await asyncio.create_subprocess_exec(*words, stdin=-1, stdout=-1)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(code)
        process.stdin.close()
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(2)
        assert await process.wait() == 130
        assert (await session.run("x")).text == "9"


async def test_the_synchronous_sdk_has_sessions_too(box: Sandbox) -> None:
    def work() -> None:
        with sync.Sandbox.get("coder") as sandbox, sandbox.code() as session:
            assert session.language == "python"
            assert [event.text for event in session.stream("print(1)")] == ["1\n", ""]
            assert session.run("2 + 2").text == "4"
            with pytest.raises(CodeTimeoutError):
                session.run("while True: pass", timeout=1)

    await asyncio.to_thread(work)


async def test_a_session_stays_while_its_sandbox_is_paused_and_in_a_fork(
    guest: object, code_image: str
) -> None:
    async with await Sandbox.create(f"code-{os.urandom(3).hex()}", image=code_image, memory="768M") as box:
        session = await box.code("python", session="work")
        await session.run("import time; x = [1, 2]; began = time.monotonic()")
        await box.pause()  # nothing of a session that runs no code is in its way
        assert box.record().state is State.PAUSED
        assert (await session.run("x.append(3); x")).text == "[1, 2, 3]"
        [fork] = await box.fork(f"{box.name}-f")
        async with fork:
            copy = await fork.code("python", session="work")
            assert (await copy.run("x.append('fork'); x")).text == "[1, 2, 3, 'fork']"
        assert (await session.run("x")).text == "[1, 2, 3]"

        code = "print('before', flush=True)\nopen('/begun', 'w')\n"
        code += "while not os.path.exists('/go'): time.sleep(0.01)\nprint('after')\nx"
        await session.run("import os")
        running = asyncio.create_task(session.run(code))
        await wait_for_file(box, "/begun")
        with pytest.raises(StillRunningError):
            await box.pause()
        await box.pause(force=True)
        with pytest.raises(GuestPausedError):
            await running
        await box.fs.write("/go", "")  # which resumes it
        followed = await session.follow(timeout=WAIT_S)
        assert (followed.stdout, followed.text) == ("before\nafter\n", "[1, 2, 3]")

        await box.stop()
        with pytest.raises(NotRunningError):
            await session.run("x")
        await session.close()


async def wait_for_file(box: Sandbox, path: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await box.fs.exists(path):
            await asyncio.sleep(0.05)


async def test_the_built_in_root_has_a_shell_and_no_python(sandbox: Sandbox) -> None:
    with pytest.raises(GuestCommandError, match="sandbox 'shared' has no python3") as caught:
        await sandbox.code("python")
    assert "image build-debian --with code" in str(caught.value.hint)
    async with await sandbox.code("sh") as session:
        await session.run("x=5; cd /proc")
        assert (await session.run('echo "$x in $PWD"')).stdout == "5 in /proc\n"
        with pytest.raises(CodeTimeoutError):
            await session.run("sleep 1000", timeout=1)
        assert (await session.run("echo $x")).stdout == "5\n"
