"""Suggestions for mistyped names. Pure."""

from __future__ import annotations

from collections.abc import Iterable

#: The least similarity of two words (:class:`difflib.SequenceMatcher`): one wrong, missing or swapped letter in a short
#: word, two in a longer one. Names that are less similar than the best one by more than the second number are dropped.
_LIKENESS = 0.6
_NEAR_BEST = 0.12
_MOST = 3


def close_to(word: str, known: Iterable[str]) -> list[str]:
    """The names in ``known`` that are similar to ``word``, the most similar first; at most three.

    Case and leading dashes are ignored. A prefix of a name matches it, too.
    """
    from difflib import SequenceMatcher  # loaded only when something was mistyped

    wanted = _folded(word[:100])
    if not wanted:
        return []
    matcher = SequenceMatcher(b=wanted)
    scores: dict[str, float] = {}
    for name in known:
        matcher.set_seq1(_folded(name))
        scores[name] = matcher.ratio()
        if len(wanted) >= 2 and _folded(name).startswith(wanted):
            scores[name] = max(scores[name], 1 - 1e-3 * len(name))
    best = max(scores.values(), default=0.0)
    least = max(_LIKENESS, best - _NEAR_BEST)
    found = [name for name, score in scores.items() if score >= least]
    return sorted(found, key=lambda name: -scores[name])[:_MOST]


def _folded(name: str) -> str:
    return name.lstrip("-").casefold()


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """``did you mean 'start'?``, or ``None`` if nothing known is similar to ``word``."""
    found = close_to(word, known)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else None


def hint_for(word: str, known: Iterable[str], otherwise: str) -> str:
    """The hint for an unknown name: similar names, if any, and ``otherwise``."""
    meant = did_you_mean(word, known)
    return otherwise if meant is None else f"{meant} {otherwise[:1].upper()}{otherwise[1:]}"
