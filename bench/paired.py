"""Compares the durations of the same jobs under two arms, job by job, with a confidence interval. Pure.

Each job of a round is one pair. The ratio is that of the sums, so that long jobs count more, as they do for a user.
The interval is a bootstrap: rounds are drawn with replacement, then pairs within each, because the jobs of one round
share that round's host.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

#: Durations (seconds) by job.
Jobs = Mapping[str, float]
#: One round: the jobs of each arm.
Round = Mapping[str, Jobs]
#: Durations of one job under the arm and under the base.
Pair = tuple[float, float]

RESAMPLES = 2000
#: The interval leaves out this share on each side: 95 %.
TAIL = 0.025


class Comparison(NamedTuple):
    """How much longer the work takes than under the base."""

    ratio: float
    low: float
    high: float
    pairs: int
    #: Jobs that ran under only one of the two.
    unpaired: int
    #: The median of the ratios of single jobs, by kind.
    kinds: Mapping[str, float]


def kind_of(job: str) -> str:
    """The kind of a job named ``GUEST/number kind``."""
    return job.rpartition(" ")[2]


def pairs_of(round_: Round, arm: str, base: str) -> dict[str, Pair]:
    """The jobs of ``round_`` that ran under both."""
    mine, theirs = round_[arm], round_[base]
    return {job: (mine[job], theirs[job]) for job in mine if job in theirs and theirs[job] > 0}


def compare(rounds: Sequence[Round], arm: str, base: str, *, seed: int = 1) -> Comparison | None:
    """``arm`` against ``base``; ``None`` if no job ran under both."""
    paired = [pairs for round_ in rounds if (pairs := pairs_of(round_, arm, base))]
    if not paired:
        return None
    by_kind: dict[str, list[float]] = {}
    for pairs in paired:
        for job, (mine, theirs) in pairs.items():
            by_kind.setdefault(kind_of(job), []).append(mine / theirs)
    unpaired = sum(len(round_[arm].keys() ^ round_[base].keys()) for round_ in rounds)
    groups = [list(pairs.values()) for pairs in paired]
    low, high = interval(groups, seed)
    return Comparison(
        ratio([pair for group in groups for pair in group]),
        low,
        high,
        sum(map(len, groups)),
        unpaired,
        {kind: statistics.median(values) for kind, values in sorted(by_kind.items())},
    )


def ratio(pairs: Sequence[Pair]) -> float:
    """The sum of the first durations, relative to that of the second."""
    return sum(mine for mine, _ in pairs) / sum(theirs for _, theirs in pairs)


def interval(groups: Sequence[Sequence[Pair]], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of :func:`ratio`. The same seed gives the same interval.

    :param groups: the pairs of each round.
    """
    random = Random(seed)
    found = []
    for _ in range(resamples):
        drawn = [random.choice(groups) for _ in groups]
        found.append(ratio([pair for group in drawn for pair in random.choices(group, k=len(group))]))
    found.sort()
    cut = int(resamples * TAIL)
    return found[cut], found[-1 - cut]


def order(arms: Sequence[str], number: int) -> list[str]:
    """The arms in the order of round ``number``: reversed in every other one, so that a machine that becomes slower
    affects all arms."""
    return list(arms) if number % 2 == 0 else list(reversed(arms))
