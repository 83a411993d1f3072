"""An atheris target for the control protocol's parser; see README.md here.

What must hold for any bytes: the parser returns, its answer is a request or a refusal, and a refusal becomes one line
of valid JSON.
"""

from __future__ import annotations

import json
import sys

import atheris

with atheris.instrument_imports():
    from ballonet.control import calls, protocol
    from ballonet.errors import ControlError


def test_one_input(data: bytes) -> None:
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
