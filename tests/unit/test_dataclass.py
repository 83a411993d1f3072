"""The data classes of :mod:`ballonet.base.dataclass` behave as the standard ones do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from ballonet.base import dataclass as ours

STANDARD, OURS = dataclasses, ours
#: What a test reads of a class in which the two modules may differ: its attributes come from either.
Made = Any


def make(module: Any, **options: bool) -> Made:
    @module.dataclass(**options)
    class Point:
        x: int
        y: int = 2
        tags: list[str] = module.field(default_factory=list)
        seen: str = module.field(default="", compare=False)
        secret: str = module.field(default="s", repr=False)
        kind: ClassVar[str] = "point"

    return Point


def make_derived(module: Any) -> Made:
    @module.dataclass(frozen=True, kw_only=True)
    class Base:
        name: str
        size: int = 1

    @module.dataclass(frozen=True, kw_only=True)
    class Derived(Base):
        size: int = 5
        more: str | None = None

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError(f"size {self.size}")
            object.__setattr__(self, "more", self.more or self.name)

    return Derived


def outcome(work: Callable[[], object]) -> object:
    """The result of ``work`` as text, or the type of what it raised."""
    try:
        return repr(work())
    except Exception as error:
        return type(error)


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, 3), {"tags": ["a"]}),
    ((), {"x": 1, "seen": "z"}),
    ((), {}),
    ((1, 2, [], "", "s", 6), {}),
    ((1,), {"x": 2}),
    ((1,), {"z": 2}),
    ((1, 2, ["t"], "u", "v"), {}),
]


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"slots": True}, {"frozen": True, "slots": True}])
@pytest.mark.parametrize(("args", "given"), CALLS)
def test_instances_are_made_as_standard_ones(
    options: dict[str, bool], args: tuple[Any, ...], given: dict[str, Any]
) -> None:
    standard, own = make(STANDARD, **options), make(OURS, **options)
    assert outcome(lambda: own(*args, **given)) == outcome(lambda: standard(*args, **given))


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"frozen": True, "slots": True}, {"eq": False}])
def test_comparison_and_changes_are_as_in_standard_ones(options: dict[str, bool]) -> None:
    def facts(module: Any) -> list[object]:
        cls = make(module, **options)
        one, same, other = cls(1), cls(1, seen="at another time"), cls(2)
        frozen_list = cls(1, tags=("a",))
        return [
            one == same,
            one == other,
            one == (1, 2),
            outcome(lambda: hash(frozen_list) == hash(cls(1, tags=("a",), seen="x"))),
            outcome(lambda: setattr(one, "x", 3)),
            outcome(lambda: delattr(one, "x")),
            outcome(lambda: module.replace(other, y=9)),
            outcome(lambda: module.replace(other, nothing=9)),
            module.asdict(cls(1, tags=["a", "b"])),
            cls.__match_args__,
            cls(1).tags is not cls(1).tags,
            outcome(lambda: copy.copy(other)),
            outcome(lambda: copy.deepcopy(other)),
            hasattr(other, "__dict__"),
        ]

    assert facts(OURS) == facts(STANDARD)


def test_fields_are_inherited_and_checked_as_in_standard_ones() -> None:
    def facts(module: Any) -> list[object]:
        cls = make_derived(module)
        return [
            repr(cls(name="a")),
            outcome(lambda: cls(name="a", size=-1)),
            outcome(lambda: cls("a")),
            outcome(lambda: module.replace(cls(name="a"), size=-1)),
            [(field.name, field.type, field.default == 5) for field in module.fields(cls)],
            str(inspect.signature(cls)),
        ]

    assert facts(OURS) == facts(STANDARD)


def test_nested_values_become_plain_ones() -> None:
    def facts(module: Any) -> object:
        inner = make_derived(module)
        outer = make(module, frozen=True)
        return module.asdict(outer(inner(name="a"), (inner(name="b"), 3), [{"k": inner(name="c")}]))

    assert facts(OURS) == facts(STANDARD)


def test_standard_functions_accept_these_classes() -> None:
    cls = make(OURS, frozen=True)
    one = cls(1)
    assert hasattr(cls, "__dataclass_fields__")  # what dataclasses.is_dataclass() looks at
    assert dataclasses.replace(one, y=5) == cls(1, 5)
    assert dataclasses.asdict(one) == {"x": 1, "y": 2, "tags": [], "seen": "", "secret": "s"}
    assert [field.name for field in dataclasses.fields(one)] == ["x", "y", "tags", "seen", "secret"]


@ours.dataclass(frozen=True, slots=True)
class Sent:
    number: int
    payload: bytes = b""


def test_instances_with_slots_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Sent(1, b"x"))) == Sent(1, b"x")


def test_standard_module_is_not_loaded() -> None:
    code = (
        "import sys\nfrom ballonet.settings.config import SandboxConfig\n"
        "SandboxConfig(name='a'); print('dataclasses' in sys.modules, 'inspect' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
