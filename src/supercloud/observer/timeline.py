"""Counts copies from what QEMUs said, on one clock. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supercloud.model.names import Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """From `at_s` on (observer's clock), this blanket's QEMU of this instance runs, or does not.

    `uncertain_s`: half the round trip with which the blanket's clock was related to the observer's.
    """

    at_s: float
    uncertain_s: float
    blanket: Id
    instance: Id
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One stretch of execution. `end_s is None`: it still runs."""

    blanket: Id
    start_s: float
    end_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """How many copies of one instance ran at once.

    `at_most` takes every stretch as long as the uncertainty of the clocks allows, so it errs upwards;
    `at_least` as short, so a value above 1 is a certain violation.
    """

    instance: Id
    at_most: int
    at_least: int
    uncertain_s: float


def runs(facts: Iterable[Fact]) -> dict[Id, list[Run]]:
    """Stretches of execution for each instance, from facts in any order."""
    stretches: dict[Id, list[Run]] = defaultdict(list)
    by_copy: dict[tuple[Id, Id], list[Fact]] = defaultdict(list)
    for fact in facts:
        by_copy[fact.instance, fact.blanket].append(fact)
    for (instance, blanket), said in by_copy.items():
        start: float | None = None
        for fact in sorted(said, key=lambda fact: fact.at_s):
            if fact.running and start is None:
                start = fact.at_s
            elif not fact.running and start is not None:
                stretches[instance].append(Run(blanket=blanket, start_s=start, end_s=fact.at_s))
                start = None
        if start is not None:
            stretches[instance].append(Run(blanket=blanket, start_s=start, end_s=None))
    return {instance: sorted(found, key=lambda run: run.start_s) for instance, found in stretches.items()}


def most_at_once(stretches: Sequence[Run], *, widen_s: float = 0.0) -> int:
    """The greatest number of stretches that overlap, each made longer by `widen_s` at both ends."""
    changes: list[tuple[float, int]] = []
    for run in stretches:
        start = run.start_s - widen_s
        end = float("inf") if run.end_s is None else run.end_s + widen_s
        if end > start:
            changes += [(start, 1), (end, -1)]
    count = most = 0
    for _, change in sorted(changes):  # at equal times an end (-1) sorts first
        count += change
        most = max(most, count)
    return most


def count_copies(facts: Sequence[Fact]) -> list[Copies]:
    """For each instance, how many copies ran at once at the worst moment."""
    uncertain: dict[Id, float] = defaultdict(float)
    for fact in facts:
        uncertain[fact.instance] = max(uncertain[fact.instance], fact.uncertain_s)
    return [
        Copies(
            instance=instance,
            at_most=most_at_once(stretches, widen_s=uncertain[instance]),
            at_least=most_at_once(stretches, widen_s=-uncertain[instance]),
            uncertain_s=uncertain[instance],
        )
        for instance, stretches in sorted(runs(facts).items())
    ]
