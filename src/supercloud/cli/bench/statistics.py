"""The few statistics that the benches need. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(samples: Sequence[float]) -> float:
    """
    Raises:
        ValueError: there is none.
    """
    if not samples:
        raise ValueError("no samples")
    return statistics.median(samples)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank).

    Raises:
        ValueError: no samples, or no percentage.
    """
    if not samples or not 0 < percent <= 100:
        raise ValueError("samples and a percentage above 0 are needed")
    rank = math.ceil(percent / 100 * len(samples))
    return sorted(samples)[rank - 1]


def interval(samples: Sequence[float]) -> tuple[float, float]:
    """Where the median is with 95 %, whatever the samples' distribution (order statistics); of few samples it
    is their whole range.

    Raises:
        ValueError: there is none.
    """
    ordered, many = sorted(samples), len(samples)
    if not many:
        raise ValueError("no samples")
    left, below = 0, math.comb(many, 0) / 2**many
    while below <= 0.025 and left < many // 2:
        left += 1
        below += math.comb(many, left) / 2**many
    left = max(left - 1, 0)
    return ordered[left], ordered[many - 1 - left]


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Median over median."""
    return median(ours) / median(peer)
