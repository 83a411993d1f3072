"""What a program may give the SDK: each wrong type and impossible value is told by name before anything is done."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import ConfigError, SandboxClosedError
from ballonet.guest.files import GuestFiles
from ballonet.guest.guest_process import GuestProcess
from ballonet.lifecycle.modify import plan_changes
from ballonet.lifecycle.record import Record
from ballonet.sdk import sync
from ballonet.sdk.balloon import BalloonHandle
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.sdk.timeouts import Timeout
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import render_flags
from ballonet.vmm.attach import Port, Tmpfs, Volume

RECORD = Record(name="box", created_at=1.0, flags=tuple(render_flags(SandboxConfig(name="box"))))


@pytest.fixture(autouse=True)
def nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Directories of the test's own, where nothing is made."""
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "BALLONET_RUN_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    yield
    assert not list(tmp_path.rglob("sandboxes"))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"name": None}, "name None"),
        ({"name": 5}, "name 5"),
        ({"image": 5}, "image must be text or None, not int (5)"),
        ({"image": " "}, "image ' ' is empty"),
        ({"rootfs": 5}, "rootfs must be a path, not int (5)"),
        ({"rootfs": ""}, "rootfs is empty"),
        ({"pull": "sometimes"}, "pull 'sometimes'"),
        ({"pull": ["always"]}, "pull ['always']"),
        ({"disk": 1.5}, "disk must be a whole number, not float (1.5)"),
        ({"volumes": "/tmp:/x"}, "volumes must be a list, not str ('/tmp:/x')"),
        ({"volumes": None}, "volumes must be a list, not NoneType (None)"),
        ({"volumes": {"/tmp": "/x"}}, "volumes must be a list, not dict"),
        ({"volumes": [5]}, "volume must be text, not int (5)"),
        ({"tmpfs": "/x"}, "tmpfs must be a list, not str ('/x')"),
        ({"tmpfs": 5}, "tmpfs must be a list, not int (5)"),
        ({"ports": "8080:80"}, "ports must be a list, not str ('8080:80')"),
        ({"ports": 8080}, "ports must be a list, not int (8080)"),
        ({"ports": [8080]}, "port must be text, not int (8080)"),
        ({"net": 5}, "net 5 is unknown"),
        ({"memory": None}, "memory must be a whole number, not NoneType (None)"),
        ({"memory": True}, "bool (True)"),
        ({"memory": 512.0}, "float (512.0)"),
        ({"cpus": "2"}, "cpus must be a whole number, not str ('2')"),
        ({"balloon": "yes"}, "balloon must be a Balloon, True or False, not str ('yes')"),
        ({"balloon": None}, "balloon must be"),
        ({"balloon": Balloon(deflate_on_oom="no")}, "deflate_on_oom must be True or False"),  # type: ignore[arg-type]
        ({"balloon": Balloon(control_socket=5)}, "balloon_control_socket must be a path"),  # type: ignore[arg-type]
        ({"command": "sleep 5"}, "command must be a list of words, not str ('sleep 5')"),
        ({"command": []}, "command is empty"),
        ({"command": ["sleep", 5]}, "command[1] must be text, not int (5)"),
        ({"command": 5}, "command must be a list of words, not int (5)"),
        ({"env": ["A=b"]}, "env must be a mapping of names to values, not list"),
        ({"env": {"A": 5}}, "env['A'] must be text, not int"),
        ({"env": {"A=": "b"}}, "the name 'A='"),
        ({"env": {5: "b"}}, "a name in env must be text, not int (5)"),
        ({"cwd": 1}, "cwd must be text or None, not int (1)"),
        ({"user": 1000}, "user must be text or None, not int (1000)"),
        ({"user": ""}, "user '' is empty"),
        ({"weight": "heavy"}, "weight 'heavy'"),
        ({"reserve": -1}, "reserve -1"),
        ({"reserve": None}, "reserve must be"),
        ({"detached": "no"}, "detached must be True or False, not str ('no')"),
        ({"admission": 1}, "admission must be True or False, not int (1)"),
        ({"cold": 1}, "cold must be True or False, not int (1)"),
    ],
)
@pytest.mark.parametrize("face", ["async", "sync"])
async def test_create_names_what_is_wrong(face: str, settings: dict[str, Any], named: str) -> None:
    settings = {"name": "box", **settings}
    with pytest.raises(ConfigError) as caught:
        if face == "async":
            await Sandbox.create(**settings)
        else:
            sync.Sandbox.create(**settings)
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"argv": "ls -l"}, "argv must be a list of words, not str ('ls -l')"),
        ({"argv": b"ls"}, "argv must be a list of words, not bytes"),
        ({"argv": None}, "argv must be a list of words, not NoneType (None)"),
        ({"argv": []}, "argv is empty"),
        ({"argv": ["ls", None]}, "argv[1] must be text, not NoneType (None)"),
        ({"argv": ["a\0b"]}, "argv[0] 'a\\x00b' contains a NUL byte"),
        ({"env": ["A=b"]}, "env must be a mapping"),
        ({"env": "A=b"}, "env must be a mapping"),
        ({"cwd": 1}, "cwd must be text or None, not int (1)"),
        ({"cwd": Path("/")}, "cwd must be text or None"),
        ({"user": 0}, "user must be text or None, not int (0)"),
        ({"stdin": 5}, "stdin must be bytes or text, not int (5)"),
        ({"stdin": ["a"]}, "stdin must be bytes or text, not list (['a'])"),
        ({"stdin": True}, "stdin must be bytes or text, not bool (True)"),
        ({"timeout": 0}, "timeout 0 must be"),
        ({"timeout": -1}, "timeout -1 must be"),
        ({"timeout": math.nan}, "timeout nan must be"),
        ({"timeout": math.inf}, "timeout inf must be"),
        ({"timeout": 10**400}, "timeout (a very large number) must be"),
        ({"timeout": 1e300}, "timeout 1e+300 must be"),
        ({"timeout": True}, "timeout must be a number of seconds, not bool (True)"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not str ('5')"),
    ],
)
@pytest.mark.parametrize("face", ["async", "sync"])
async def test_exec_names_what_is_wrong(face: str, settings: dict[str, Any], named: str) -> None:
    settings = {"argv": ["true"], **settings}
    with pytest.raises(ConfigError) as caught:
        if face == "async":
            await Sandbox(RECORD).exec(**settings)
        else:
            sync.Sandbox(Sandbox(RECORD)).exec(**settings)
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda box: box.shell(["ls"]), "script must be text, not list"),
        (lambda box: box.shell("ls", timeout=-1), "timeout -1"),
        (lambda box: box.exec_stream(["ls"], stdin=b"x"), "stdin must be True or False, not bytes"),
        (lambda box: box.exec_stream(["ls"], tty=1), "tty must be True or False"),
        (lambda box: box.exec_stream(["ls"], rows=-1), "rows -1"),
        (lambda box: box.exec_stream(["ls"], cols="80"), "cols must be a whole number"),
        (lambda box: box.stop(-1), "timeout_s -1"),
        (lambda box: box.stop(math.nan), "timeout_s nan"),
        (lambda box: box.stop("1"), "timeout_s must be a number of seconds"),
        (lambda box: box.balloon.set(None), "target must be"),
        (lambda box: box.balloon.set(300, wait="yes"), "wait must be True or False"),
        (lambda box: box.balloon.set(300, timeout_s=-1), "timeout_s -1"),
        (lambda box: box.balloon.limit(True), "limit must be"),
        (lambda box: box.fs.write("/a", None), "data must be bytes or text"),
        (lambda box: box.fs.write("/a", "\ud800"), "data cannot be encoded as UTF-8"),
        (lambda box: box.fs.write("/a", b"", mode="644"), "mode must be a whole number"),
        (lambda box: box.fs.write("/a", b"", mode=-1), "mode -1"),
        (lambda box: box.fs.copy_in(None, "/a"), "source must be a path"),
        (lambda box: box.fs.copy_in("a\0b", "/a"), "NUL byte"),
        (lambda box: box.fs.copy_in("", "/a"), "source is empty"),
        (
            lambda box: box.fs.write_stream("/a", None),
            "pieces must be an asynchronous iterable of bytes, not NoneType",
        ),
        (
            lambda box: box.fs.write_stream("/a", [b"a"]),
            "pieces must be an asynchronous iterable of bytes, not list",
        ),
        (
            lambda box: box.fs.unpack_stream(b"a", "/a"),
            "tar must be an asynchronous iterable of bytes, not bytes",
        ),
        (lambda box: box.fs.copy_out("/a", b"a"), "target must be a path"),
    ],
)
async def test_other_calls_name_what_is_wrong(call: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await call(Sandbox(RECORD))
    assert named in caught.value.message


@pytest.mark.parametrize("pieces", [None, 5, b"abc", "abc", bytearray(b"abc")])
def test_a_stream_that_is_no_iteration_is_named_without_asyncio_too(pieces: Any) -> None:
    """Bytes would be written number by number."""
    fs = sync.Sandbox(Sandbox(RECORD)).fs
    calls: dict[str, Callable[[], None]] = {
        "pieces": lambda: fs.write_stream("/a", pieces),
        "tar": lambda: fs.unpack_stream(pieces, "/"),
    }
    for what, call in calls.items():
        with pytest.raises(ConfigError) as caught:
            call()
        assert f"{what} must be an iterable of bytes, not {type(pieces).__name__}" in caught.value.message


@pytest.mark.parametrize("value", [None, 5, "", "a/b"])
async def test_names_are_checked_wherever_one_is_given(value: Any) -> None:
    for call in (Sandbox.get, Sandbox.start, Sandbox.remove):
        with pytest.raises(ConfigError):
            await call(value)
    with pytest.raises(ConfigError):
        SandboxBuilder(value).build()


@pytest.mark.parametrize(
    "fields",
    [
        {"volumes": "/a:/b"},
        {"volumes": ["/a:/b"]},
        {"volumes": [Volume("/a", "/b")]},  # type: ignore[arg-type]
        {"volumes": [Volume(Path("/a"), 5)]},  # type: ignore[arg-type]
        {"tmpfs": [Tmpfs(5)]},  # type: ignore[arg-type]
        {"ports": [Port("1", "2")], "net": "user"},  # type: ignore[arg-type]
        {"ports": [Port(1, 2, 5)], "net": "user"},  # type: ignore[arg-type]
        {"ports": 5},
        {"root": "/a", "disk_mib": 64},
        {"image": 5},
        {"machine": ["q35"]},
        {"hard_cap": "no"},
        {"confidential": 0},
        {"balloon_allow_users": 5},
        {"balloon_allow_users": ["root"]},
    ],
)
def test_a_configuration_is_checked_for_types_too(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SandboxConfig(name="box", **fields)


def test_lists_become_tuples() -> None:
    assert SandboxConfig(name="box", tmpfs=[Tmpfs("/x")]).tmpfs == (Tmpfs("/x"),)  # type: ignore[arg-type]


async def test_a_typo_in_a_change_is_an_error() -> None:
    for face in (Sandbox(RECORD), sync.Sandbox(Sandbox(RECORD))):
        for call in (face.modify, face.plan):
            with pytest.raises(TypeError, match="memroy"):
                call(memroy="1G")  # type: ignore[call-arg]
    with pytest.raises(ConfigError) as caught:
        plan_changes(RECORD, None, {"memroy": "1G"})
    assert caught.value.message == "cannot modify memroy"
    assert str(caught.value.hint).startswith("did you mean 'memory'? ")
    with pytest.raises(ConfigError, match="no change was requested"):
        plan_changes(RECORD, None, {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("90s", 90), ("1m30s", 90), ("2h", 7200), ("1h2m3.5s", 3723.5)],
)
def test_timeouts_as_people_write_them(text: str, seconds: float) -> None:
    assert Timeout.parse(text).seconds == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "nan", "inf", "1d", "s", "5 s", "1s1m", "٣"])
def test_what_is_no_timeout_is_refused_as_it_was_typed(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeout.parse(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("text", ["99999999999", "1000000001s", "300000h", "9" * 500])
def test_a_timeout_that_is_too_long_is_said_to_be(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeout.parse(text)
    assert caught.value.message == f"--timeout {text[:40]!r} is too long"
    assert caught.value.hint == "the maximum is 1000000000 seconds; omit --timeout for no limit"


def test_a_timeouts_error_has_its_value_as_typed() -> None:
    assert "timeout of 1m30s" in Timeout.parse("1m30s").error().message
    timeout = Timeout.of(2.5)
    assert timeout is not None
    error = timeout.error()
    assert "timeout of 2.5 s" in error.message
    assert (error.timeout, error.returncode, error.code) == (2.5, None, "command-timeout")


async def test_a_closed_sandbox_says_so_and_that_it_can_be_had_again() -> None:
    box = Sandbox(RECORD)
    await box.close()
    await box.close()
    calls: list[Callable[[], Any]] = [
        lambda: box.exec(["true"]),
        lambda: box.shell("true"),
        lambda: box.exec_stream(["true"]),
        lambda: box.fs.read("/etc/passwd"),
        box.balloon.get,
        box.metrics,
        lambda: box.modify(memory=512),
    ]
    for call in calls:
        with pytest.raises(SandboxClosedError, match="the Sandbox object of 'box' is closed") as caught:
            await call()
        assert (caught.value.code, "Sandbox.get('box')" in str(caught.value.hint)) == ("closed", True)


def test_what_is_shown_of_the_objects() -> None:
    box = Sandbox(RECORD)
    assert repr(box) == "<Sandbox 'box', created>"
    assert repr(box.balloon) == "<BalloonHandle of <Sandbox 'box', created>>"
    twin = sync.Sandbox(box)
    assert (repr(twin), repr(twin.balloon)) == (repr(box), repr(box.balloon))
    twin.close()
    assert repr(twin) == "<Sandbox 'box', closed>"


FACES = [
    (Sandbox, sync.Sandbox),
    (BalloonHandle, sync.BalloonHandle),
    (GuestFiles, sync.GuestFiles),
    (GuestProcess, sync.GuestProcess),
]
#: What only the loop's side needs, and what only the other side has.
ASYNC_ONLY = {"expire", "wait_expired", "running", "account"}
SYNC_ONLY: dict[type, set[str]] = {
    sync.GuestProcess: {"stdin", "close"},
    sync.Sandbox: {"boot_s"},  # an attribute there
}


def _public(cls: type) -> dict[str, Any]:
    """The public members of a class and of its bases."""
    members = {name: member for base in reversed(cls.__mro__[:-1]) for name, member in vars(base).items()}
    return {name: member for name, member in members.items() if not name.startswith("_")}


@pytest.mark.parametrize(("there", "here"), FACES)
def test_both_faces_have_the_same_names_with_the_same_arguments(there: type, here: type) -> None:
    one, other = _public(there), _public(here)
    assert set(one) - set(other) <= ASYNC_ONLY
    assert set(other) - set(one) <= SYNC_ONLY.get(here, set())
    for name in set(one) & set(other):
        assert isinstance(one[name], property) == isinstance(other[name], property), name
        if isinstance(one[name], property):
            continue
        signatures = [
            [
                (each.name, each.kind, each.default)
                for each in inspect.signature(getattr(cls, name)).parameters.values()
            ]
            for cls in (there, here)
        ]
        assert signatures[0] == signatures[1], name


def test_both_faces_have_the_same_attributes() -> None:
    box = Sandbox(RECORD)
    instance = {name for name in vars(box) if not name.startswith("_")}
    assert instance == {"balloon", "boot_s"}
    assert all(hasattr(sync.Sandbox(box), name) for name in instance)


@pytest.mark.parametrize("cls", [cls for pair in FACES for cls in pair if cls is not GuestFiles])
def test_everything_public_is_documented(cls: type) -> None:
    for name, member in {"class": cls, **_public(cls)}.items():
        said = inspect.getdoc(getattr(member, "__func__", member))
        assert said, f"{cls.__name__}.{name}"
        assert not said.startswith("See "), f"{cls.__name__}.{name}"
