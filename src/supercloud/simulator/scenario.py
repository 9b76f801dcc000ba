"""One run: bring all up, ask for an operation, put faults in at its steps, wait, look what is left."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from supercloud.model.errors import Failed, SupercloudError
from supercloud.ports.agent import StopMode
from supercloud.services.facade import ControlPlane
from supercloud.services.views import OperationView
from supercloud.simulator import outcome
from supercloud.simulator.bugs import ALL, Bugs
from supercloud.simulator.faults import FAULTS, SPECIAL
from supercloud.simulator.guards import contain
from supercloud.simulator.world import SimWorld, run

Ask = Callable[[ControlPlane], Awaitable[OperationView]]
OPERATIONS: dict[str, Ask] = {
    "migrate": lambda control: control.migrate_instance("vm", to="south"),
    "start": lambda control: control.start_instance("vm"),
    "stop": lambda control: control.stop_instance("vm", mode=StopMode.SHUTDOWN),
    "rotate": lambda control: control.rotate_keys("c"),
}
_END_S = 900.0


@dataclass(frozen=True)
class At:
    """A fault, before which step it comes (or how long after), and how long it lasts (None: drawn)."""

    fault: str
    step: str
    occurrence: int = 1
    after_s: float = 0.0
    seconds: float | None = None

    def __str__(self) -> str:
        lasts = f" for {self.seconds:g} s" if self.seconds else ""
        when = f"{self.after_s:g} s after" if self.after_s else "before"
        number = f" no. {self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.fault}{lasts}, {when} “{self.step}”{number}"


@dataclass(frozen=True)
class Plan:
    seed: int
    operation: str
    faults: tuple[At, ...] = ()
    then: tuple[str, ...] = ()  # operations asked for afterwards, whatever became of the first
    length_s: float | None = None  # of rights; None: drawn
    nested: tuple[str, ...] = ()  # blankets that are inside another one, which is what is stopped
    guarded: bool = False  # something is in force about the instance

    def __str__(self) -> str:
        return f"{self.operation}: " + ("; ".join(map(str, self.faults)) or "no fault")


@dataclass
class Report:
    """`wrong` is empty after a good run."""

    plan: Plan
    ended: str = ""
    steps: int = 0
    true_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    most_executing: int = 0
    digest: str = ""
    lines: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def play(plan: Plan, bugs: Bugs = ALL["none"]) -> Report:
    report = Report(plan)
    run(
        plan.seed,
        bugs,
        lambda world: _play(world, plan, report),
        length_s=plan.length_s,
        guarded=plan.guarded,
    )
    return report


async def _play(world: SimWorld, plan: Plan, report: Report) -> None:
    try:
        await _prepare(world, plan)
        await _operate(world, plan, report)
        report.wrong += await outcome.settle(world, plan.operation, report.ended, faults=_names(plan))
    except Failed as error:
        report.wrong.append(error.message)
    finally:
        report.wrong += [str(violation) for violation in world.observer.violations]
        report.steps, report.true_s = world.trace.steps, world.loop.true_s
        report.most_executing = world.observer.most_executing
        report.lines, report.names = world.trace.lines, list(world.trace.names)
        report.digest = world.trace.digest()


def _names(plan: Plan) -> tuple[str, ...]:
    return tuple(at.fault for at in plan.faults)


async def _prepare(world: SimWorld, plan: Plan) -> None:
    for name in plan.nested:
        world.put_inside(name)
    while not world.controller.all_ready():
        if world.loop.true_s > _END_S:
            raise Failed("the blankets never came up")
        await asyncio.sleep(0.5)
    if plan.operation != "start":
        view = await world.controller.ask(OPERATIONS["start"])
        state, said = await world.controller.until_ended(view.id, timeout_s=200)
        if state != "succeeded":
            raise Failed(f"the first start {state}: {said}")
    if plan.guarded:
        await contain(world, world["north"])
    await asyncio.sleep(world.random.uniform(1, 12))


async def _operate(world: SimWorld, plan: Plan, report: Report) -> None:
    faults = _names(plan)
    if "restore store" in faults:
        world.controller.back_up()
    for name in ("north", "south"):
        if f"roll back {name}" in faults:
            world[name].save()
    world.trace.begin()
    for at in plan.faults:
        world.trace.arm(at.step, at.occurrence, _doing(world, at))
    world.trace.say(f"ASKED: {plan}")
    watching = asyncio.ensure_future(_watch_connections(world)) if _keeps_connections(plan) else None
    report.ended = await _ask(world, plan.operation)
    if watching is not None:
        watching.cancel()
    for act in world.trace.disarm():
        act()
    for operation in plan.then:
        await _ask(world, operation)


def _keeps_connections(plan: Plan) -> bool:
    return plan.operation == "rotate" and set(_names(plan)) <= {"kill controller", "slow store"}


async def _watch_connections(world: SimWorld) -> None:
    """At no moment of a rotation does a blanket use a key that another does not accept."""
    while True:
        for wrong in outcome.mesh(world):
            world.observer.violate(wrong)
        await asyncio.sleep(0.02)


async def _ask(world: SimWorld, operation: str) -> str:
    """How it ended.

    Raises:
        Failed: it did not.
    """
    try:
        view = await world.controller.ask(OPERATIONS[operation])
    except SupercloudError as refused:
        ended = f"refused: {refused.message}"
    else:
        state, said = await world.controller.until_ended(view.id, timeout_s=_END_S)
        message = json.loads(said).get("message") if said.startswith("{") else said
        ended = f"{state}: {message}" if message else state
    world.trace.say(f"ENDED: {operation} {ended}")
    return ended


def _doing(world: SimWorld, at: At) -> Callable[[], None]:
    def act() -> None:
        world.trace.say(f"FAULT: {at}")
        (FAULTS | SPECIAL)[at.fault](world, at.seconds)

    return (lambda: world.network.later(at.after_s, act)) if at.after_s else act


# ---------------------------------------------------------------- which runs there are


@lru_cache(maxsize=16)
def catalogue(operation: str) -> tuple[tuple[str, int], ...]:
    """Every step that the operation takes without faults, with how often it comes."""
    report = play(Plan(seed=7, operation=operation))
    if report.wrong:
        raise Failed(f"{operation} without a fault: {report.wrong[0]}")
    until_end = report.names[: _steps_of(report)]
    return tuple(sorted(Counter(until_end).items()))


def _steps_of(report: Report) -> int:
    begun = next(place for place, line in enumerate(report.lines) if "ASKED: " in line)
    ended = next(place for place, line in enumerate(report.lines) if "ENDED: " in line)
    return ended - begun


def plan_of(seed: int) -> Plan:
    """Consecutive seeds go through every pair of operation and fault; the rest is drawn."""
    random = Random(seed)  # noqa: S311 - it has to be the same each time
    operations, faults = list(OPERATIONS), list(FAULTS)
    operation = operations[seed % len(operations)]
    chosen = [faults[seed // len(operations) % len(faults)]]
    while random.random() < 0.25:
        chosen.append(random.choice(faults))
    steps = catalogue(operation)
    return Plan(
        seed=seed, operation=operation, faults=tuple(_place(random, fault, steps) for fault in chosen)
    )


def _place(random: Random, fault: str, steps: tuple[tuple[str, int], ...]) -> At:
    step, times = random.choice(steps)
    return At(fault=fault, step=step, occurrence=random.randint(1, times))
