"""An atheris target for the control protocol's parser; see README.md here.

What must hold for any bytes: the parser returns, its answer is a request or a refusal, and a refusal becomes one line
of valid JSON. Each input is tried twice: as the line itself, and as the choices that grow a message, since the JSON
decoder is not seen by the coverage and raw bytes seldom get past it.
"""

from __future__ import annotations

import json
import sys

import atheris

with atheris.instrument_imports():
    from ballonet.base.errors import ControlError
    from ballonet.control import calls, protocol
    from ballonet.control.wire import field_specs


_NAMES = sorted({name for method in protocol.METHODS.values() for name in field_specs(method.params)})


def _value(choices: atheris.FuzzedDataProvider, depth: int = 0) -> object:
    kind = choices.ConsumeIntInRange(0, 6 if depth > 3 else 8)
    if kind == 0:
        return None
    if kind == 1:
        return choices.ConsumeBool()
    if kind == 2:
        return choices.ConsumeIntInRange(-1, 2048)
    if kind == 3:
        return choices.ConsumeInt(16)
    if kind == 4:
        return choices.ConsumeFloat()
    if kind == 5:
        return choices.PickValueInList([*protocol.METHODS, "2.0", "512", "", "\ud800"])
    if kind == 6:
        return choices.ConsumeUnicode(300)
    if kind == 7:
        return [_value(choices, depth + 1) for _ in range(choices.ConsumeIntInRange(0, 3))]
    return _object(choices, depth + 1)


def _object(choices: atheris.FuzzedDataProvider, depth: int) -> dict[str, object]:
    members: dict[str, object] = {}
    for _ in range(choices.ConsumeIntInRange(0, 3)):
        name = choices.PickValueInList(_NAMES) if choices.ConsumeBool() else choices.ConsumeUnicode(8)
        members[name] = _value(choices, depth)
    return members


def _grow(data: bytes) -> bytes:
    """A message that is almost a request: each member is as it should be, anything else, or left out."""
    choices = atheris.FuzzedDataProvider(data)
    message: dict[str, object] = {}
    likely = {
        "jsonrpc": ["2.0"],
        "id": [1, "a"],
        "method": list(protocol.METHODS),
        "params": None,
        "result": None,
    }
    for name, values in likely.items():
        fate = choices.ConsumeIntInRange(0, 7)
        if fate == 0:
            message[name] = _value(choices)
        elif values is not None and fate != 1:
            message[name] = choices.PickValueInList(values)
        elif name == "params" and fate != 1:
            message[name] = _object(choices, 0)
    return json.dumps(message).encode()


def test_one_input(data: bytes) -> None:
    """Feed the bytes, and the message grown from them."""
    _try(data)
    _try(_grow(data))


def _try(data: bytes) -> None:
    """Feed one line to both parsers of the server and to that of the client."""
    message = protocol.parse_request(data)
    if isinstance(message, protocol.Refusal):
        line = protocol.error_line(message)
        if line.count(b"\n") != 1 or json.loads(line)["error"]["code"] != message.code:
            raise AssertionError(f"a refusal that is not one line: {line!r}")
    elif not isinstance(message.params, message.method.params):
        raise AssertionError(f"parameters of the wrong kind: {message!r}")
    plain = protocol.parse_plain(data)
    if isinstance(plain, str) and protocol.plain_error(plain).count(b"\n") != 1:
        raise AssertionError(f"a reason that is not one line: {plain!r}")
    try:
        reply = calls.read_line(data, "socket")
        calls.change_of(reply)
        calls.result_of(calls.Call(1, "balloon.get", b""), reply)
    except ControlError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
