"""At most once, under every kind of fault at the steps of every operation, from a seed that replays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supercloud.simulator.bugs import ALL
from supercloud.simulator.controls import CONTROLS, shown
from supercloud.simulator.faults import FAULTS
from supercloud.simulator.scenario import OPERATIONS, Report, plan_of, play

pytestmark = pytest.mark.simulation
STEPS = 10_000


def seeds(operation: str) -> list[int]:
    """Consecutive seeds go through every pair of operation and fault: all of them for the migration, and for
    the others every second fault, each of which two operations share; longer runs go on from there."""
    place, number = list(OPERATIONS).index(operation), len(OPERATIONS)
    faults = range(len(FAULTS)) if operation == "migrate" else range(place % 2, len(FAULTS), 2)
    return [fault * number + place for fault in faults]


def said(report: Report) -> str:
    return "\n".join(
        [
            f"{report.plan} ended: {report.ended}",
            *report.wrong,
            f"replay: python -m supercloud.simulator --seed {report.plan.seed}",
        ]
    )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_instance_runs_twice_or_loses_what_it_synced(operation: str, pytestconfig: pytest.Config) -> None:
    """`--simulation-seed N` replays one and prints its event log."""
    chosen: int | None = pytestconfig.getoption("--simulation-seed")
    if chosen is not None:
        if plan_of(chosen).operation != operation:
            pytest.skip("another operation's seed")
        report = play(plan_of(chosen))
        print("\n".join(report.lines))
        assert not report.wrong, said(report)
        return
    steps = 0
    for seed in seeds(operation):
        report = play(plan_of(seed))
        assert not report.wrong, said(report)
        assert report.most_executing <= 1
        steps += report.steps
    assert steps >= STEPS // len(OPERATIONS), f"only {steps} steps"


def test_nor_where_blankets_are_inside_others_that_are_stopped() -> None:
    """The migration with each kind of stop of what is around its blankets, every other operation with one,
    and whatever else is drawn."""
    stops = [index for index, fault in enumerate(FAULTS) if fault.startswith("stop ")]
    for place, operation in enumerate(OPERATIONS):
        for index in stops if operation == "migrate" else stops[place : place + 1]:
            plan = replace(plan_of(index * len(OPERATIONS) + place), nested=("north", "south"))
            report = play(plan)
            assert not report.wrong, said(report)
            assert report.most_executing <= 1


@pytest.mark.parametrize("operation", ["start", "migrate"])
def test_nothing_boots_without_what_is_in_force_about_it(operation: str) -> None:
    """Wherever it comes to boot: its machines reboot, forget, and are rolled back, and so does the store."""
    place, number = list(OPERATIONS).index(operation), len(OPERATIONS)
    for fault in range(0, len(FAULTS), 3):
        plan = replace(plan_of(fault * number + place), guarded=True, then=("stop", "start"))
        report = play(plan)
        assert not report.wrong, said(report)


def test_a_seed_replays() -> None:
    first, again = play(plan_of(12)), play(plan_of(12))
    assert first.digest == again.digest
    assert first.lines == again.lines


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_each_deliberate_bug_is_found_and_its_absence_too(name: str) -> None:
    """Negative controls: were the simulation blind, the bug would pass; were it wrong, its absence not."""
    assert shown(name) is not None


def test_every_bug_has_its_schedule() -> None:
    assert set(CONTROLS) == set(ALL) - {"none"}
