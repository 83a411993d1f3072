"""The whole signature for functions that take settings as ``**settings: Unpack[…]``, for ``help()`` and ``inspect``."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ballonet.base.suggest import did_you_mean
from ballonet.settings.definitions import SETTINGS, ModifySettings
from ballonet.settings.setting import Setting

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes_settings(declaration: Any) -> Callable[[_Function], _Function]:
    """Show the settings of ``declaration`` as parameters of a function that takes them as ``**settings``.

    An unknown name is a :class:`TypeError` at the call, also of a coroutine function. In the docstring, a line for each
    setting replaces ``:param settings: …``.

    :param declaration: a class of :mod:`ballonet.settings.definitions`.
    """
    settings = [SETTINGS[name] for name in declaration.__annotations__]

    def decorate(function: _Function) -> _Function:
        signature = _with_settings(
            inspect.signature(function), settings, optional=declaration is ModifySettings
        )
        known = signature.parameters.keys()

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                if name not in known:
                    raise TypeError(_unknown(function, name, known))
            return function(*args, **kwargs)

        if inspect.iscoroutinefunction(function):
            _mark_as_coroutine_function(checked)
        checked.__signature__ = signature  # type: ignore[attr-defined]
        checked.__doc__ = _documented(function.__doc__, settings)
        return checked  # type: ignore[return-value]

    return decorate


def _with_settings(
    signature: inspect.Signature, settings: list[Setting], *, optional: bool
) -> inspect.Signature:
    """:param optional: each may be ``None``, which is its default."""
    parameters = [
        each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    first_named = [each.kind for each in parameters].count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters[first_named:first_named] = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if optional else setting.default,
            annotation=setting.type | None if optional or setting.default is None else setting.type,
        )
        for setting in settings
    ]
    return signature.replace(parameters=parameters)


def _unknown(function: Callable[..., Any], name: str, known: Any) -> str:
    message = f"{function.__qualname__}() got an unexpected keyword argument {name!r}"
    meant = did_you_mean(name, (each for each in known if each not in ("self", "cls")))
    return message if meant is None else f"{message}; {meant}"


def _mark_as_coroutine_function(function: Any) -> None:
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        import asyncio

        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def _documented(said: str | None, settings: list[Setting]) -> str | None:
    if said is None:
        return None
    lines = []
    for line in said.splitlines():
        indent, found, _ = line.partition(":param settings:")
        if found:
            lines += [_param(setting, indent) for setting in settings]
        else:
            lines.append(line)
    return "\n".join(lines)


def _param(setting: Setting, indent: str) -> str:
    form = "" if setting.kind != "list" or setting.metavar is None or setting.item is int else setting.metavar
    said = f"{setting.help}{f': ``{form}`` each' if form else ''}"
    if setting.default_text is not None:
        said += f" (default: {setting.default_text})"
    return f"{indent}:param {setting.name}: {said}."
