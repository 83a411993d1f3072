"""Divides memory among sandboxes by weight, between a minimum and a maximum for each. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def divide(total: int, least: Sequence[int], most: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Give each its minimum (``least``), then share the rest of ``total`` in proportion to ``weights``, up to each
    maximum (``most``).

    The sum exceeds ``total`` only if the sum of ``least`` does. Of two that differ only in weight, the heavier one
    never gets less. A ``most`` below ``least`` counts as ``least``.
    """
    left = total - sum(least)
    if left <= 0:
        return list(least)
    gaps = [max(0, high - low) for low, high in zip(least, most, strict=True)]
    if sum(gaps) <= left:
        return [low + gap for low, gap in zip(least, gaps, strict=True)]
    # Fill those first whose gap is small for their weight; the others share what remains.
    shares = [0] * len(gaps)
    order = sorted(range(len(gaps)), key=lambda at: gaps[at] / max(1, weights[at]))
    weight_left = sum(max(1, weight) for weight in weights)
    for at in order:
        weight = max(1, weights[at])
        # Round up: of two with the same gap the heavier one comes first and must not lose by rounding.
        shares[at] = min(gaps[at], -(-left * weight // weight_left))
        left -= shares[at]
        weight_left -= weight
    return [low + share for low, share in zip(least, shares, strict=True)]
