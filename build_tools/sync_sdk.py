"""Writes ``ballonet/sdk/sync.py`` from the async classes of the SDK.

Each class gets the same parameters, annotations, decorators and documentation. Its methods run the async ones in the
event loop of ``sdk/sync_loop.py``; what some need beyond that is named in :data:`INSTEAD` and :data:`UNDO`, and written
by hand in ``sdk/sync_calls.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from build_tools.python_source import PLAIN, WIDTH, Imports, Source, header, wrapped

#: The async classes of the SDK: module and name.
FACES = {
    "Sandbox": "ballonet.sdk.sandbox",
    "BalloonHandle": "ballonet.sdk.balloon",
    "GuestFiles": "ballonet.guest.files",
    "CodeSession": "ballonet.sdk.code_session",
}
#: Classes whose synchronous version is written by hand, in these modules.
BY_HAND = {"GuestProcess": "ballonet.sdk.sync_process"}
#: The module of the functions below.
_HELPERS = "ballonet.sdk.sync_calls"
#: Functions that stand in for a method; they get the async object.
INSTEAD = {("Sandbox", "close"): "close_sandbox"}
#: Functions that undo a call which was interrupted after it had succeeded; they get its result.
UNDO = {
    ("Sandbox", "create"): "undo_create",
    ("Sandbox", "restore"): "undo_create",
    ("Sandbox", "fork"): "undo_fork",
}
EXPORTS = ("Balloon", "ExecResult", "GuestProcess", "Sandbox", "SandboxEnd")

SDK_DOC = '''"""The SDK without asyncio: the same calls, each of which returns when it is done.

One event loop in a background thread runs all of them; calls may come from any thread. A child made by ``fork`` (such
as a worker of ``multiprocessing``) gets a loop and connections of its own: it can use the parent's sandboxes, which
keep running when the child ends or closes them.
"""'''


def plain_doc(text: str) -> str:
    """Documentation without asyncio's words."""
    return re.sub(r"\b(async|await) ", "", text)


Function = ast.FunctionDef | ast.AsyncFunctionDef
_KINDS = ("property", "classmethod", "staticmethod")


class SdkClass:
    """One class of ``sdk/sync.py``."""

    def __init__(self, source: Source, name: str, imports: Imports) -> None:
        self._name = name
        self._imports = imports
        self._lineage = source.lineage(name)
        self._inner = f"Async{name}"
        imports.add(source.module, name, self._inner)

    def lines(self) -> list[str]:
        source, cls = self._lineage[0]
        document = cls.body[0]
        lines = [f"class {self._name}:", f"    {plain_doc(source.text_of(document))}", ""]
        members: dict[str, tuple[Source, Function]] = {}
        attributes: list[tuple[Source, ast.AnnAssign, str]] = []
        for source, cls in self._lineage:
            for node in cls.body:
                if isinstance(node, Function):
                    members.setdefault(node.name, (source, node))
                    if node.name == "__init__":
                        attributes += [(source, each, name) for each, name in _attributes(node)]
        lines += [f"    def __init__(self, inner: {self._inner}) -> None:", "        self._inner = inner"]
        for source, node, name in attributes:
            if (kind := source.segment(node.annotation)) in FACES:
                lines += [
                    f"        #: {source.comment_above(node)}",
                    f"        self.{name} = {kind}(inner.{name})",
                ]
        if "__repr__" in members:
            lines += ["", "    def __repr__(self) -> str:", "        return repr(self._inner)"]
        for source, node, name in attributes:
            if source.segment(node.annotation) not in FACES:
                kind = self._type(source, node.annotation)
                lines += ["", "    @property", f"    def {name}(self) -> {kind}:"]
                lines += [f'        """{source.comment_above(node)}"""', f"        return self._inner.{name}"]
        for name, (source, function) in members.items():
            if not name.startswith("_"):
                lines += ["", *self._method(source, function)]
        if "__aenter__" in members:
            self._imports.add("typing", "Self")
            lines += ["", "    def __enter__(self) -> Self:", "        return self"]
            lines += ["", "    def __exit__(self, *exc: object) -> None:", "        self.close()"]
        return lines

    def _method(self, source: Source, node: Function) -> list[str]:
        decorators = [source.segment(each) for each in node.decorator_list]
        for decorator in node.decorator_list:
            self._use(source, decorator)
        parameters, arguments = self._parameters(source, node)
        assert node.returns is not None
        lines = [f"    @{decorator}" for decorator in decorators]
        lines += wrapped(f"    def {node.name}", parameters, f" -> {self._type(source, node.returns)}:")
        if ast.get_docstring(node):
            lines.append(f"        {plain_doc(source.text_of(node.body[0]))}")
        kind = next((kind for kind in _KINDS if kind in decorators), "")
        return lines + self._body(node, kind, source.segment(node.returns), arguments)

    def _body(self, node: Function, kind: str, returned: str, arguments: list[str]) -> list[str]:
        """What a method does: call the async one, and wrap what is returned in a class of this module."""
        key = (self._name, node.name)
        call = f"{self._inner if kind in ('classmethod', 'staticmethod') else 'self._inner'}.{node.name}"
        before, after = ("" if returned == "None" else "return "), ""
        if returned in ("Self", *FACES, *BY_HAND):
            before, after = f"return {'cls' if returned == 'Self' else returned}(", ")"
        if returned == "Sequence[Self]":
            before, after = "return [type(self)(each) for each in ", "]"
        if key in INSTEAD:
            self._imports.add(_HELPERS, INSTEAD[key])
            return [f"        {before}{INSTEAD[key]}(self._inner){after}"]
        if kind == "property":
            return [f"        {before}{call}{after}"]
        if returned.startswith("AsyncIterator["):
            self._imports.add(_HELPERS, "iterate")
            return _nested(f"{before}iterate(", call, arguments, f"){after}")
        if isinstance(node, ast.AsyncFunctionDef):
            undo = ""
            if key in UNDO:
                self._imports.add(_HELPERS, UNDO[key])
                undo = f", {UNDO[key]}"
            self._imports.add("ballonet.sdk.sync_loop", "LOOP")
            return _nested(f"{before}LOOP.run(", call, arguments, f"{undo}){after}")
        if kind == "staticmethod":
            return wrapped(f"        {before}{call}", arguments, after)
        self._imports.add("ballonet.sdk.sync_loop", "LOOP")
        if not arguments:
            return [f"        {before}LOOP.call({call}){after}"]
        one = f"        {before}LOOP.call(lambda: {call}({', '.join(arguments)})){after}"
        if len(one) <= WIDTH:
            return [one]
        return [
            f"        {before}LOOP.call(",
            *wrapped(f"            lambda: {call}", arguments, "", width=0),
            f"        ){after}",
        ]

    def _parameters(self, source: Source, node: Function) -> tuple[list[str], list[str]]:
        """Parameters as they are declared, and as they are passed on."""
        declared, passed = [], []
        spec = node.args
        positional = [*spec.posonlyargs, *spec.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
        defaults += spec.defaults

        def declare(stars: str, parameter: ast.arg, default: ast.expr | None) -> None:
            text = f"{stars}{parameter.arg}"
            if parameter.annotation is not None:
                text += f": {self._type(source, parameter.annotation)}"
            if default is not None:
                self._use(source, default)
                text += f"{' = ' if parameter.annotation is not None else '='}{source.segment(default)}"
            declared.append(text)

        def value(parameter: ast.arg) -> str:
            kind = "" if parameter.annotation is None else source.segment(parameter.annotation)
            if not kind.startswith("AsyncItera"):
                return parameter.arg
            self._imports.add(_HELPERS, "read_in_threads")
            return f'read_in_threads("{parameter.arg}", {parameter.arg})'

        for at, (parameter, default) in enumerate(zip(positional, defaults, strict=True), 1):
            declare("", parameter, default)
            if not (at == 1 and parameter.arg in ("self", "cls")):
                passed.append(value(parameter))
            if at == len(spec.posonlyargs):
                declared.append("/")
        if spec.vararg is not None:
            declare("*", spec.vararg, None)
            passed.append(f"*{spec.vararg.arg}")
        elif spec.kwonlyargs:
            declared.append("*")
        for parameter, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            declare("", parameter, default)
            passed.append(f"{parameter.arg}={value(parameter)}")
        if spec.kwarg is not None:
            declare("**", spec.kwarg, None)
            passed.append(f"**{spec.kwarg.arg}")
        return declared, passed

    def _type(self, source: Source, annotation: ast.expr) -> str:
        self._use(source, annotation)
        return re.sub(r"\bAsync\w+", lambda match: PLAIN.get(match[0], match[0]), source.segment(annotation))

    def _use(self, source: Source, expression: ast.expr) -> None:
        """Import what an expression uses."""
        for node in ast.walk(expression):
            if not isinstance(node, ast.Name) or node.id in FACES:
                continue
            if node.id in BY_HAND:
                self._imports.add(BY_HAND[node.id], node.id)
            elif node.id in source.imports:
                module, name, typing = source.origin(node.id)
                if node.id in PLAIN:
                    self._imports.add(module, PLAIN[name])
                else:
                    self._imports.add(module, name, node.id, typing=typing)


def _attributes(init: Function) -> Iterator[tuple[ast.AnnAssign, str]]:
    """The public attributes that ``__init__`` declares.

    :raises ValueError: one has no annotation, which the synchronous class needs.
    """
    for node in init.body:
        match node:
            case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                if not name.startswith("_"):
                    yield node, name
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
                if not name.startswith("_"):
                    raise ValueError(f"self.{name} needs an annotation: self.{name}: TYPE = …")


def _nested(before: str, of: str, arguments: list[str], after: str) -> list[str]:
    """A call within a call; in two statements if it does not fit one line."""
    one = f"        {before}{of}({', '.join(arguments)}){after}"
    if len(one) <= WIDTH:
        return [one]
    return [*wrapped(f"        work = {of}", arguments, ""), f"        {before}work{after}"]


def render_sdk(src: Path) -> str:
    """The source code of ``sdk/sync.py``."""
    imports = Imports()
    public = Source.of(src, FACES["Sandbox"])
    for name in EXPORTS:
        if name in BY_HAND:
            imports.add(BY_HAND[name], name)
        elif name not in FACES:
            imports.add(public.origin(name)[0], name)
    classes = []
    modules = set()
    for name, module in FACES.items():
        source = Source.of(src, module)
        classes += ["\n".join(SdkClass(source, name, imports).lines())]
        modules |= {each.module for each, _ in source.lineage(name)}
    exports = "__all__ = [" + ", ".join(f'"{name}"' for name in EXPORTS) + "]"
    future = "from __future__ import annotations"
    top = [header(modules), SDK_DOC, "", future, "", *imports.lines(), "", exports]
    return "\n\n\n".join(["\n".join(top), *classes]) + "\n"
