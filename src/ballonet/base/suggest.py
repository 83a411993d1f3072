"""What somebody who mistyped a name may have meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable

#: How alike two words are at least (:class:`difflib.SequenceMatcher`): one wrong, missing or swapped letter in a short
#: word, two in a longer one. Those that are less alike than the best by more than the second are left out.
_LIKENESS = 0.6
_NEAR_BEST = 0.12
_MOST = 3


def close_to(word: str, known: Iterable[str]) -> list[str]:
    """The names in ``known`` that ``word`` may have meant, the likeliest first; at most three.

    Case and leading dashes do not count. A beginning of a name means it, too.
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
    """``did you mean 'start'?``, or ``None`` where nothing known is like ``word``."""
    found = close_to(word, known)
    return f"did you mean {' or '.join(map(repr, found))}?" if found else None


def hint_for(word: str, known: Iterable[str], otherwise: str) -> str:
    """A hint for a name that is unknown: what may have been meant, and in any case ``otherwise``."""
    meant = did_you_mean(word, known)
    return otherwise if meant is None else f"{meant} {otherwise[:1].upper()}{otherwise[1:]}"
