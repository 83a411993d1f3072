"""Code sessions by the real agent and the real kernel programs, on this host."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.code_errors import (
    CodeError,
    CodeSessionBusyError,
    CodeSessionEndedError,
    CodeTimeoutError,
)
from ballonet.base.errors import ConfigError, GuestChannelError
from ballonet.guest.code import protocol
from ballonet.guest.code.languages import KERNELS, LANGUAGES
from ballonet.guest.code.link import EXISTS, MISSING, NO_COMMAND, CodeLink
from ballonet.sdk import code_session
from ballonet.sdk.code_result import CodeResult
from tests.unit.agent_program import DEADLINE_S, ended, sanitized_agent
from tests.unit.code_sessions import PREFIX, code_sessions

pytestmark = pytest.mark.long

#: What waits until the test makes a file, in each language.
WAITS = {
    "python": "import os, time\nwhile not os.path.exists({path!r}): time.sleep(0.01)",
    "node": "await (async () => {{ while (!require('fs').existsSync({path!r})) "
    "await new Promise(r => setTimeout(r, 10)); }})()",
    "sh": "while ! [ -e {path} ]; do sleep 0.01; done",
    "bash": "while ! [ -e {path} ]; do sleep 0.01; done",
}
PRINTS = {"python": "print({text!r}, flush=True)", "node": "console.log({text!r})", "sh": "echo {text}"}
PRINTS["bash"] = PRINTS["sh"]
LOOPS = {
    "python": "while True: pass",
    "node": "while (true) {}",
    "sh": "while :; do :; done",
    "bash": "while :; do sleep 1; done",
}
SETS = {"python": "x = 41", "node": "let x = 41", "sh": "x=41", "bash": "x=41"}
SHOWS = {
    "python": "print(x + 1)",
    "node": "console.log(x + 1)",
    "sh": "echo $((x + 1))",
    "bash": "echo $((x + 1))",
}
every_language = pytest.mark.parametrize("language", list(LANGUAGES))


@pytest.fixture(params=["plain", "ipython"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a Python with IPython, and of one where it cannot be imported."""
    if request.param == "ipython":
        pytest.importorskip("IPython")
        return {}
    package = tmp_path / "without" / "IPython"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": str(package.parent)}


async def outcome(result: CodeResult) -> dict[str, Any]:
    return {"stdout": result.stdout, "text": result.text, "error": result.error}


@every_language
async def test_state_stays_between_runs(language: str) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        first = await session.run(SETS[language])
        assert first.ok
        assert first.stdout == first.stderr == ""
        assert (await session.run(SHOWS[language])).stdout == "42\n"


@every_language
async def test_output_comes_while_the_code_runs(language: str, tmp_path: Path) -> None:
    path = tmp_path / "go"
    code = f"{PRINTS[language].format(text='before')}\n{WAITS[language].format(path=str(path))}\n"
    code += PRINTS[language].format(text="after")
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        seen = []
        async for event in session.stream(code):
            if event.kind == "stdout":
                seen.append(event.text)
                path.touch()
        assert "".join(seen) == "before\nafter\n"
        assert event.kind == "end"


@every_language
async def test_an_interrupt_ends_the_code_and_keeps_the_state(language: str) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        await session.run(SETS[language])
        code = f"{PRINTS[language].format(text='begun')}\n{LOOPS[language]}\n{PRINTS[language].format(text='no')}"
        kinds = []
        async for event in session.stream(code):
            kinds.append(event.kind)
            if event.text == "begun\n":
                await session.interrupt()
        if language in ("sh", "bash"):
            assert event.exit_status == 130
        else:
            assert event.error is not None
            assert event.error.name == {"python": "KeyboardInterrupt", "node": "Interrupted"}[language]
        assert kinds.count("stdout") == 1
        await session.interrupt()  # nothing runs: nothing happens
        shown = await session.run(SHOWS[language])
        assert (shown.stdout, shown.stderr, shown.error) == ("42\n", "", None)


@every_language
async def test_a_timeout_interrupts(language: str) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        await session.run(SETS[language])
        with pytest.raises(CodeTimeoutError, match=r"timeout of 0\.5 s and was interrupted") as caught:
            await session.run(f"{PRINTS[language].format(text='begun')}\n{LOOPS[language]}", timeout=0.5)
        assert not caught.value.restarted
        assert caught.value.stdout == "begun\n"
        assert "keeps its variables" in str(caught.value.hint)
        assert (await session.run(SHOWS[language])).stdout == "42\n"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"),
        ("sh", "trap '' INT; while :; do :; done"),
    ],
)
async def test_a_timeout_restarts_what_does_not_react(
    language: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_session, "GRACE_S", 0.3)
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        await session.run(SETS[language])
        with pytest.raises(CodeTimeoutError, match="did not react within") as caught:
            await session.run(code, timeout=0.3)
        assert caught.value.restarted
        assert "variables are lost" in str(caught.value.hint)
        assert not (await session.run(SHOWS[language])).stdout.startswith("42")


@pytest.mark.parametrize(
    ("language", "code", "said"),
    [
        ("python", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("python", "import os; os._exit(3)", "ended with exit status 3"),
        ("node", "process.exit(4)", "ended with exit status 4"),
        ("sh", "exit 5", "ended with exit status 5"),
    ],
)
async def test_a_session_whose_process_ends_says_so(language: str, code: str, said: str) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        code = f"{PRINTS[language].format(text='last words')}\n{code}"
        with pytest.raises(CodeSessionEndedError, match=said) as caught:
            await session.run(code)
        assert caught.value.stdout == "last words\n"
        with pytest.raises(CodeSessionEndedError, match=said) as caught:
            await session.run(SHOWS[language])
        assert "restart()" in str(caught.value.hint)
        await session.restart()
        await session.run(SETS[language])
        assert (await session.run(SHOWS[language])).stdout == "42\n"


async def test_a_process_that_ends_between_two_runs_is_told_at_the_next() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        pid = int(str((await session.run("import os; os.getpid()")).text))
        os.kill(pid, signal.SIGTERM)
        await ended(pid)
        with pytest.raises(CodeSessionEndedError, match="was killed by SIGTERM"):
            await session.run("1")


async def test_a_restart_loses_the_state_and_what_the_code_started() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        await session.run("x = 41; import subprocess")
        started = "subprocess.Popen(['sleep', '1000'], start_new_session=True).pid"
        pid = int(str((await session.run(started)).text))
        await session.restart()
        await ended(pid)
        failed = await session.run("x")
        assert failed.error is not None
        assert failed.error.name == "NameError"


async def test_a_restart_while_code_runs_ends_its_call() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        with pytest.raises(CodeSessionEndedError, match="was restarted while it ran the code"):
            async for event in session.stream("print('begun', flush=True)\nwhile True: pass"):
                if event.kind == "stdout":
                    restart = asyncio.create_task(session.restart())
        await restart
        assert (await session.run("1")).text == "1"


async def test_closing_ends_everything_and_leaves_nothing() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        started = await session.run(
            "import subprocess; subprocess.Popen(['sh', '-c', 'sleep 1000 & wait']).pid"
        )
        await session.close()
        await ended(int(str(started.text)))
        await session.close()
        with pytest.raises(CodeSessionEndedError, match="there is no code session 'test'"):
            await session.run("1")


async def test_sessions_are_separate() -> None:
    async with code_sessions() as sessions:
        first, second = await sessions.open("python", "a"), await sessions.open("python", "b")
        await asyncio.gather(first.run("x = 1"), second.run("x = 2"))
        found = await asyncio.gather(first.run("x"), second.run("x"))
        assert [each.text for each in found] == ["1", "2"]


async def test_runs_of_one_session_take_turns() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        await session.run("import time; done = []")
        code = "time.sleep(0.05); done.append({0}); list(done)"
        found = await asyncio.gather(*(session.run(code.format(number)) for number in range(4)))
        assert [each.text for each in found] == ["[0]", "[0, 1]", "[0, 1, 2]", "[0, 1, 2, 3]"]


async def test_another_client_finds_the_session_in_use_and_later_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ballonet.guest.code.link._TAKEN_S", 0.2)
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        other = code_session.CodeSession(sessions.start, "test", LANGUAGES["python"])
        async for event in session.stream("x = 7\nprint('begun', flush=True)\nwhile True: pass"):
            if event.kind == "stdout":
                with pytest.raises(CodeSessionBusyError, match="in use by another program"):
                    await other.run("1")
                await session.interrupt()
        assert (await other.run("x")).text == "7"


async def test_what_was_cut_off_goes_on_and_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun = tmp_path / "go", tmp_path / "begun"
    code = f"print('before', flush=True)\nopen({str(begun)!r}, 'w')\n"
    code += f"{WAITS['python'].format(path=str(path))}\nprint('after')\n6 * 7"
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        running = asyncio.create_task(session.run(code))
        while not begun.exists():
            await asyncio.sleep(0.01)
        assert session._link is not None
        session._link._process.abandon()  # as when the sandbox is paused by force
        with pytest.raises(GuestChannelError):
            await running
        with monkeypatch.context() as patched:
            patched.setattr(code_session, "GRACE_S", 0.1)
            with pytest.raises(CodeSessionBusyError, match="still runs code"):
                await session.run("1")
        path.touch()
        result = await session.follow(timeout=DEADLINE_S)
        assert (result.stdout, result.text) == ("before\nafter\n", "42")
        with pytest.raises(ConfigError, match="no run of code session 'test' was cut off"):
            await session.follow()
        assert (await session.run("1")).text == "1"


async def test_a_run_waits_for_code_that_is_just_ending(tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    code = f"import os, time\ntry:\n    open({str(begun)!r}, 'w')\n    while True: pass\nexcept KeyboardInterrupt:\n"
    code += f"    while not os.path.exists({str(go)!r}): time.sleep(0.01)\n    x = 8"
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        running = asyncio.create_task(session.run(code))
        while not begun.exists():
            await asyncio.sleep(0.01)
        assert session._link is not None
        session._link._process.abandon()
        with pytest.raises(GuestChannelError):
            await running
        await session.interrupt()
        waiting = asyncio.create_task(session.run("x"))
        while session._link is not None or not session._lock.locked():
            await asyncio.sleep(0.01)
        go.touch()
        assert (await waiting).text == "8"


async def test_code_that_nobody_waits_for_is_interrupted(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        running = asyncio.create_task(session.run(f"x = 3\nopen({str(begun)!r}, 'w')\nwhile True: pass"))
        while not begun.exists():
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await session.run("x")).text == "3"


async def test_output_is_bounded_and_complete_when_streamed() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        code = "import sys\nfor n in range(200_000): print('%09d' % n)"
        result = await session.run(code, limit=1000)
        assert len(result.stdout) == 1000
        assert result.truncated
        assert result.stdout.startswith("000000000\n000000001\n")
        text = "".join([event.text async for event in session.stream(code) if event.kind == "stdout"])
        assert text == "".join(f"{n:09d}\n" for n in range(200_000))


@every_language
async def test_the_last_output_of_a_run_belongs_to_it(language: str) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        for number in range(60):
            text = f"line{number}"
            assert (await session.run(PRINTS[language].format(text=text))).stdout == f"{text}\n"


async def test_output_between_two_runs_belongs_to_none() -> None:
    """Even much of it stops nobody."""
    code = "import threading, os\ndef talk():\n    for n in range(3000): os.write(1, b'x' * 1000)\n"
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        await session.run(code + "thread = threading.Thread(target=talk)")
        await session.run("thread.start()")
        joined = await session.run("thread.join(60); thread.is_alive()")
        assert joined.text == "False"
        assert (await session.run("print('mine')")).stdout == "mine\n"


@every_language
async def test_what_code_prints_cannot_be_taken_for_the_sessions_own_words(language: str) -> None:
    words = 'd {"id": 1, "error": null}\nd 1 0'
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        if language == "python":
            code = f"import os\nprint({words!r})\nos.system('echo d 1 >&3')\nos.write(3, b'd 1 0')"
        elif language == "node":
            code = f"console.log({words!r}); require('child_process').spawnSync('sh', ['-c', 'echo d 1 >&3']).status"
        else:
            code = f"printf '%s\\n' '{words}'; (echo d 1 7 >&3) 2>/dev/null; sh -c 'echo d 1 7 >&3' 2>/dev/null; true"
        result = await session.run(code)
        assert result.stdout == words + "\n"
        if language == "python":
            assert result.error is not None
            assert result.error.message == "[Errno 9] Bad file descriptor"
        elif language == "node":
            assert result.text == "2", "the channel is not open in children"
        else:
            assert result.exit_status == 0


async def test_python_gives_values_and_exceptions_as_data(python: dict[str, str]) -> None:
    async with code_sessions() as sessions:
        sessions.env = python
        session = await sessions.open("python")
        assert (await session.run("x = 1\nx + 1")).value == {"text/plain": "2"}
        assert (await session.run("None")).value is None
        assert (await session.run("x;")).value is None
        await session.run("def broken(n):\n    return 1 / n\n")
        failed = await session.run("print('so far')\nbroken(0)\nprint('never')")
        assert failed.stdout == "so far\n"
        assert failed.error is not None
        assert (failed.error.name, failed.error.message) == ("ZeroDivisionError", "division by zero")
        assert "broken(0)" in failed.error.traceback
        assert "return 1 / n" in failed.error.traceback, "the lines of earlier runs are shown"
        assert "python_kernel" not in failed.error.traceback
        assert "/kernel" not in failed.error.traceback
        assert "\x1b" not in failed.error.traceback
        syntax = await session.run("x = = 1")
        assert syntax.error is not None
        assert syntax.error.name == "SyntaxError"
        left = await session.run("import sys; sys.exit(3)")
        assert left.error is not None
        assert left.error.name == "SystemExit"
        assert (await session.run("x")).text == "1", "it goes on"
        hidden = await session.run(
            "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd"
        )
        assert hidden.error is not None
        assert hidden.error.name in ("Odd", "ValueError"), "IPython fails to show it"
        waited = await session.run("import asyncio\nawait asyncio.sleep(0)\n'awaited'")
        assert waited.text == "'awaited'"
        assert (await session.run("input()")).error is not None, "there is no input"


async def test_python_gives_rich_results(python: dict[str, str]) -> None:
    code = """
class Rich:
    def __repr__(self): return "plain"
    def _repr_html_(self): return "<b>bold</b>"
    def _repr_png_(self): return b"\\x89PNG\\r\\n\\x1a\\n..."
    def _repr_json_(self): return {"a": [1, 2.5, None]}
print("before")
display(Rich())
Rich()
"""
    wanted = {
        "text/plain": "plain",
        "text/html": "<b>bold</b>",
        "image/png": b"\x89PNG\r\n\x1a\n...",
        "application/json": {"a": [1, 2.5, None]},
    }
    async with code_sessions() as sessions:
        sessions.env = python
        session = await sessions.open("python")
        events = [event async for event in session.stream(code)]
        assert [event.kind for event in events] == ["stdout", "display", "value", "end"]
        assert events[1].data == events[2].data == wanted
        result = await session.run(code)
        assert (result.value, list(result.displays)) == (wanted, [wanted])
        assert result.pictures == [wanted["image/png"]] * 2
        broken = await session.run("class Broken:\n    def _repr_html_(self): 1 / 0\nBroken()")
        assert broken.value is not None
        assert "text/html" not in broken.value
        large = await session.run("class Large:\n    def _repr_html_(self): return 'x' * (40 << 20)\nLarge()")
        assert "too large" in str(large.text)


async def test_a_figure_comes_back_as_a_picture(python: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    async with code_sessions() as sessions:
        # Its home directory is '/', where only root can write.
        sessions.env = {**python, "MPLCONFIGDIR": str(tmp_path)}
        session = await sessions.open("python")
        await session.run("import matplotlib.font_manager")  # which may say that it looks for fonts first
        drawn = await session.run("import matplotlib.pyplot as plt\nplt.plot([1, 4, 2]);")
        assert len(drawn.pictures) == 1
        assert drawn.pictures[0].startswith(b"\x89PNG")
        assert drawn.stderr == ""
        shown = await session.run("plt.plot([1])\nplt.show()\nplt.plot([2])\nplt.show()\nprint('end')")
        assert len(shown.pictures) == 2
        assert shown.stderr == "", "no word about a backend that cannot show figures"
        value = await session.run("fig, ax = plt.subplots()\nfig")
        assert len(value.pictures) == 1
        assert (await session.run("plt.get_fignums()")).text == "[]"


async def test_ipython_is_used_where_there_is_one() -> None:
    pytest.importorskip("IPython")
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        assert (await session.run("get_ipython() is not None")).text == "True"
        listed = await session.run("out = !echo from a shell\nout")
        assert listed.text == "['from a shell']"
        assert (await session.run("%env HOME")).text == "'/'"


async def test_interrupting_python_reaches_its_children(python: dict[str, str]) -> None:
    async with code_sessions() as sessions:
        sessions.env = python
        session = await sessions.open("python")
        # Python itself ignores SIGINT meanwhile, and the code ends by itself.
        assert (await session.run("import os\nos.system('sleep 1000')", timeout=0.5)).text == "2"
        with pytest.raises(CodeTimeoutError) as caught:
            await session.run("import subprocess\nsubprocess.run(['sleep', '1000'])", timeout=0.5)
        assert not caught.value.restarted


async def test_node_keeps_declarations_with_await_and_gives_errors_as_data() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("node")
        assert (await session.run("const a = await Promise.resolve(5); a * 2")).text == "10"
        assert (await session.run("a")).text == "5"
        assert (await session.run("undefined")).value is None
        assert (await session.run("({b: [1, {c: 2}]})")).text == "{ b: [ 1, { c: 2 } ] }"
        failed = await session.run("function f() { throw new RangeError('deep') }\nf()")
        assert failed.error is not None
        assert (failed.error.name, failed.error.message) == ("RangeError", "deep")
        assert "at f" in failed.error.traceback
        assert "kernel" not in failed.error.traceback
        for code, name in (("x y", "SyntaxError"), ("await Promise.reject(new TypeError('t'))", "TypeError")):
            error = (await session.run(code)).error
            assert error is not None
            assert error.name == name
        thrown = await session.run("throw 'a string'")
        assert thrown.error is not None
        assert thrown.error.message == "'a string'"
        await session.run("setTimeout(() => { throw new Error('later') }, 1); 1")
        await session.run("await new Promise(r => setTimeout(r, 50))")
        assert (await session.run("a")).text == "5", "an error that nobody waits for ends nothing"
        with pytest.raises(CodeTimeoutError) as caught:
            await session.run("await new Promise(() => {})", timeout=0.3)
        assert not caught.value.restarted
        assert (await session.run("a")).text == "5"


async def test_a_child_that_python_forks_does_not_answer_for_it(python: dict[str, str]) -> None:
    async with code_sessions() as sessions:
        sessions.env = python
        session = await sessions.open("python")
        assert (await session.run("import os\npid = os.fork()")).ok
        assert (await session.run("os.waitpid(pid, 0)[1]")).text == "0"
        code = "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool:\n"
        code += "    found = pool.map(abs, [-1, 2])\nfound"
        assert (await session.run(code)).text == "[1, 2]"


async def test_interrupts_at_any_point_leave_a_session_usable(python: dict[str, str]) -> None:
    async with code_sessions() as sessions:
        sessions.env = python
        session = await sessions.open("python")
        for wait in range(20):
            seen = 0
            async for event in session.stream("x = 7\nwhile True:\n    print('some text')\n    display(x)"):
                seen += event.kind in ("stdout", "display")
                if wait < seen <= wait + 3:  # later ones may arrive while the first is being handled
                    await session.interrupt()
            assert event.error is not None
        assert (await session.run("x")).text == "7"


#: Raises what an interrupt raises before one of the steps that the interpreter takes while something is said.
INTERRUPT_AT = """
import sys
def interrupt(frame, event, arg):
    global steps
    if frame.f_code.co_name != "say" and frame.f_back.f_trace is None:
        return None
    frame.f_trace_opcodes = True
    steps -= event == "opcode"
    if steps == 0 and event == "opcode":
        sys.settrace(None)
        raise KeyboardInterrupt
    return interrupt
"""


async def test_an_interrupt_at_any_step_of_saying_a_result_leaves_a_session_usable() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        await session.run(INTERRUPT_AT)
        steps, hit = 0, True
        while hit:
            steps += 1
            result = await session.run(
                f"steps = {steps}\nsys.settrace(interrupt)\ntry:\n    display(7)\nfinally:\n    sys.settrace(None)",
                timeout=20,
            )
            hit = result.error is not None
    assert steps > 30


@pytest.mark.parametrize("language", ["sh", "bash"])
async def test_a_shell_keeps_its_directory_functions_and_text(language: str, tmp_path: Path) -> None:
    async with code_sessions() as sessions:
        session = await sessions.open(language)
        await session.run(f'cd {tmp_path}\nf() {{ echo "in $PWD: $1"; }}')
        assert (await session.run("f 'a b'")).stdout == f"in {tmp_path}: a b\n"
        odd = "a\\nb\\\\c\td\\c %s é \\0101"
        assert (await session.run(f"cat <<'END'\n{odd}\nEND\n")).stdout == odd + "\n"
        failed = await session.run("false")
        assert (failed.exit_status, failed.ok, failed.error) == (1, False, None)
        broken = await session.run("if true; then")
        assert broken.exit_status == 2
        assert "yntax error" in broken.stderr
        assert (await session.run("cat; echo $?")).stdout == "0\n", "standard input is empty"
        assert (await session.run("pwd")).stdout == f"{tmp_path}\n", "it goes on"


async def test_a_session_is_started_once_and_again_when_it_was_killed() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        assert (await sessions.launch("python", "test", "sh"))[0] == EXISTS
        owner = int(str((await session.run("import os; os.getppid()")).text))
        os.kill(owner, signal.SIGKILL)
        await ended(owner)
        with pytest.raises(CodeSessionEndedError, match="there is no code session"):
            await session.run("1")
        again = await sessions.open("python")
        with pytest.raises(CodeSessionEndedError, match="another one has its name now"):
            await session.run("1")
        assert (await again.run("1")).text == "1"


async def test_a_kernel_that_cannot_start_is_told() -> None:
    async with code_sessions() as sessions:
        status, said = await sessions.launch("python", "test", "no-such-interpreter", "{kernel}")
        assert status == NO_COMMAND
        assert said == "no-such-interpreter: No such file or directory\n"
        assert not Path(f"{PREFIX}-{os.geteuid()}").exists()
        sessions.env = {"PYTHONHOME": "/nowhere"}
        with pytest.raises(CodeSessionEndedError, match="ended with exit status 1"):
            await sessions.open("python")
        async with await sessions.start("connect", PREFIX, "other") as process:
            assert (await process.wait()).returncode == MISSING


async def test_a_session_in_a_directory_of_others_is_refused() -> None:
    directory = Path(f"{PREFIX}-{os.geteuid()}")
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    try:
        async with code_sessions() as sessions:
            status, said = await sessions.launch("sh", "test", "sh", "{kernel}")
            assert status == 1
            assert "Operation not permitted" in said
            directory.rmdir()
    finally:
        if directory.exists():
            directory.rmdir()


async def test_large_code_is_run_and_too_large_code_is_refused() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        assert (await session.run(f"len('{'x' * 3_000_000}')")).text == "3000000"
        with pytest.raises(ConfigError, match="a session takes 16777216 at once"):
            await session.run("x" * (17 << 20))
        with pytest.raises(ConfigError, match="code must be text"):
            await session.run(5)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="NUL byte"):
            await session.run("\0")
        with pytest.raises(ConfigError, match="timeout"):
            await session.run("1", timeout=0)


async def test_a_client_that_breaks_the_protocol_is_disconnected() -> None:
    async with code_sessions() as sessions:
        session = await sessions.open("sh")
        for words in (b"A\xff\xff\xff\xff", b"R\0\0\0\0", protocol.attach(protocol.NOW) * 2, b"?\0\0\0\0"):
            link = await CodeLink.open(sessions.start, "test", protocol.NOW) if words[:1] == b"?" else None
            if link is not None:
                await link.send(words)
                assert await link.read() == []
                await link.close()
                continue
            async with await sessions.start("connect", PREFIX, "test") as process:
                await process.write_stdin(words)
                async with asyncio.timeout(DEADLINE_S):
                    await process.stdout.read_all(1000)
        assert (await session.run("echo still here")).stdout == "still here\n"


async def test_the_session_holds_up_under_sanitizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.agent_program.built_agent", sanitized_agent)
    async with code_sessions() as sessions:
        session = await sessions.open("python")
        assert (await session.run("x = 1; x")).text == "1"
        assert len((await session.run("print('x' * 3_000_000)", limit=4_000_000)).stdout) == 3_000_001
        await session.restart()
        with pytest.raises(CodeTimeoutError):
            await session.run("while True: pass", timeout=0.3)
        with pytest.raises(CodeError):
            await session.run("import os; os._exit(1)")
        await session.restart()
        assert (await session.run("2")).text == "2"


def test_the_kernel_of_python_needs_no_newer_python_than_3_7() -> None:
    ast.parse((KERNELS / "python_kernel.py").read_text(), feature_version=(3, 7))


def test_a_decoder_believes_nothing() -> None:
    def hello(flags: int = 2) -> bytes:
        return b"H" + (29).to_bytes(4, "little") + bytes(20) + bytes([flags]) + bytes(8)

    for data in (
        b"O" + bytes(4),
        b"H" + (5).to_bytes(4, "little") + b"12345",
        b"O\xff\xff\xff\xff",
        hello() + b"?" + bytes(4),
        hello() + b"D" + bytes(4),
    ):
        with pytest.raises(GuestChannelError):
            list(protocol.Decoder().feed(data))
    decoder = protocol.Decoder()
    stream = hello() + b"O\x02\0\0\0hi" + b"B\0\0\0\0"
    pieces = [piece for at in range(len(stream)) for piece in decoder.feed(stream[at : at + 1])]
    assert [(piece.kind, piece.data) for piece in pieces] == [("stdout", b"hi"), ("begun", b"")]
    assert decoder.offset == 12
    with pytest.raises(GuestChannelError):
        protocol.from_json(b"[]")
    with pytest.raises(GuestChannelError):
        protocol.from_json(b"[" * 100_000)
    with pytest.raises(GuestChannelError):
        LANGUAGES["sh"].done(b"x")
    assert json.loads(LANGUAGES["python"].request(3, "é\n")) == {"id": 3, "code": "é\n"}
