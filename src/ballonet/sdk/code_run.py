"""One run of code in a session, from what the session says about it. Pure."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from ballonet.guest.code import protocol
from ballonet.guest.code.languages import Language
from ballonet.guest.code.protocol import Lines, Piece
from ballonet.sdk.code_result import CodeEvent, bundle, exception


class CodeRun:
    """The state of a run. With the number 0: of the start of a session."""

    def __init__(self, language: Language, number: int) -> None:
        self._language = language
        self._number = number
        self._lines = Lines()
        self._decoders = {
            kind: codecs.getincrementaldecoder("utf-8")("replace") for kind in ("stdout", "stderr")
        }
        self._begun = number == 0
        #: The last event, when the code has ended.
        self.end: CodeEvent | None = None
        #: How the kernel ended, in words.
        self.died: str | None = None
        #: The session was restarted meanwhile; ``ready``: it has done so.
        self.restarted = self.ready = False

    @property
    def over(self) -> bool:
        """Whether nothing more will be said about it."""
        if self.restarted:
            return self.ready or self.died is not None
        return self.end is not None or self.died is not None

    def feed(self, piece: Piece) -> Iterator[CodeEvent]:
        """What the code did.

        :raises GuestChannelError: the guest broke the protocol.
        """
        match piece.kind:
            case "begun":
                self._begun = True
            case "stdout" | "stderr":
                text = self._decoders[piece.kind].decode(piece.data)
                if self._begun and text:
                    yield CodeEvent(piece.kind, text)
            case "words":
                for kind, rest in self._lines.feed(piece.data):
                    yield from self._heard(kind, rest)
            case "died":
                self.died = protocol.died(piece)
            case "started":
                self.restarted, self.died, self._lines = True, None, Lines()

    def _heard(self, kind: str, rest: bytes) -> Iterator[CodeEvent]:
        if kind == "d":
            found = self._language.done(rest)
            if found.get("id") == 0:
                self.ready = True
            if self._begun and self.end is None and found.get("id") == self._number:
                yield from self._ended(exception(found.get("error")), found.get("exit_status"))
        elif kind == "m" and self._begun:
            found = protocol.from_json(rest)
            shown = "value" if found.get("kind") == "value" else "display"
            yield CodeEvent(shown, data=bundle(found.get("data")))

    def _ended(self, error: object, status: object) -> Iterator[CodeEvent]:
        from ballonet.sdk.code_result import CodeException

        raised = error if isinstance(error, CodeException) else None
        if raised is not None:
            yield CodeEvent("error", raised.message, error=raised)
        self.end = CodeEvent("end", error=raised, exit_status=status if isinstance(status, int) else None)
        yield self.end
