"""One cell: set the scene, begin the operation, strike at the moment, heal, and judge what came of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supercloud.cli.demo.witness import Witness
from supercloud.model.errors import SupercloudError, Unavailable

from .cells import Cell, End, Moment, Side
from .guest import Disk, Told, compare
from .strikes import STRIKES, Scene
from .system import Late, System

#: A blanket that stays away is insisted on for ten minutes before its instance counts as fenced.
_ENDS_S = 900.0
_SETTLES_S = 900.0
_STABLE = 3
_LOOK_S = 2.0
_AFTER = frozenset({"going on at the target", "starting again at the source", "cleaning up"})
_NOWHERE = frozenset({"stopped", "fenced", "failed"})
#: How a start fails where a blanket has none of an instance's disk.
_LOST = "its data are not where they were"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was seen. `wrong` is empty where it was as promised."""

    cell: str
    end: str
    operation: str
    reason: str
    copies: int
    copies_if_clocks_err: int
    disk: str
    took_s: float
    wrong: list[str]

    def public(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Run:
    """What one run notes on its way."""

    system: System
    cell: Cell
    witness: Witness
    source: str
    subject: str
    before: Told
    boots: frozenset[str]
    operation: str = ""
    reason: str = ""


def run(system: System, cell: Cell, *, say: Callable[[str], None] = lambda _: None) -> Result:
    """
    Raises:
        Late, SupercloudError: the scene could not be set; that says nothing about the fault.
    """
    began = time.monotonic()
    system.ready()
    ports = {machine.id: machine.observer for machine in map(system.machine, system.blankets)}
    with Witness(ports) as witness, tempfile.TemporaryDirectory(prefix="sc-fault-") as scratch:
        seen = system.subject()
        said = system.told()
        noted = _Run(system, cell, witness, seen["blanket"], seen["id"], said, frozenset(system.boots))
        if cell.moment is Moment.START:
            system.finished(system.act("stop", {"mode": "destroy"}), timeout_s=_ENDS_S)
        whose = system.other(noted.source) if cell.side is Side.TARGET else noted.source
        scene = Scene(system, system.machine(whose), Path(scratch), system.outlast_s())
        end, disk, wrong = _carry_out(noted, scene, say)
        copies = [one for one in witness.copies() if one.instance == noted.subject]
        at_least = max((one.at_least for one in copies), default=0)
        wrong += _judged(cell, noted, end, disk, at_least)
        return Result(
            cell=cell.name,
            end=end,
            operation=noted.operation,
            reason=noted.reason,
            copies=at_least,
            copies_if_clocks_err=max((one.at_most for one in copies), default=0),
            disk=disk.said if disk else "not looked at: nothing may be started there",
            took_s=round(time.monotonic() - began, 1),
            wrong=wrong,
        )


def _carry_out(noted: _Run, scene: Scene, say: Callable[[str], None]) -> tuple[End, Disk | None, list[str]]:
    system, strike = noted.system, STRIKES[noted.cell.kind]
    strike.prepare(scene)
    operation, there = _begun(noted)
    if not system.reach(operation, there):
        raise Late(f"it ended before the blow: {system.finished(operation, timeout_s=_ENDS_S)}")
    say("the moment is there")
    strike.blow(scene)
    strike.heal(scene)
    say("healed")
    try:
        noted.operation = system.finished(operation, timeout_s=_ENDS_S)
        say(f"the operation {noted.operation}")
        return *_outcome(noted), []
    except (Late, SupercloudError) as error:
        return End.UNSETTLED, None, [str(error)]


def _begun(noted: _Run) -> tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]:
    """The operation, and how to see in it that the moment is there."""
    system = noted.system
    match noted.cell.moment:
        case Moment.START:
            return system.act("start"), lambda seen: seen["phase"] == "booting"
        case Moment.STOP:
            return system.act("stop"), lambda seen: seen["phase"] == "stopping"
        case Moment.ROTATION:
            return system.rotate(), lambda seen: seen["phase"] in ("telling peers", "switching")
        case Moment.BEFORE:
            move = system.act("migrate", {"to": system.other(noted.source)})
            return move, lambda seen: seen["phase"] == "transfer" and (seen["done"] or 0) > 0
        case Moment.AFTER:
            move = system.act("migrate", {"to": system.other(noted.source)})
            return move, lambda seen: seen["phase"] in _AFTER


# ---------------------------------------------------------------- what came of it


def _outcome(noted: _Run) -> tuple[End, Disk | None]:
    where = _settled(noted)
    if where is None:
        return End.NONE, _after_a_start(noted)
    disk = _disk(noted)
    live, anew = (End.SOURCE, End.SOURCE_ANEW) if where == noted.source else (End.TARGET, End.TARGET_ANEW)
    return (anew if disk.anew else live), disk


def _settled(noted: _Run) -> str | None:
    """Where it runs, or None: nowhere; once the store and the QEMUs have said the same for a while."""
    deadline = time.monotonic() + _SETTLES_S
    before: tuple[str, str | None] | None = None
    stable = 0
    while stable < _STABLE:
        if time.monotonic() > deadline:
            running = sorted(noted.witness.running(noted.subject))
            raise Late(f"the store says {before}, the QEMUs of {running or 'no blanket'} run it")
        time.sleep(_LOOK_S)  # instances' states have no event
        now = _agreed(noted)
        stable = stable + 1 if now is not None and now == before else 0
        before = now
    assert before is not None
    return before[1] if before[0] == "running" else None


def _agreed(noted: _Run) -> tuple[str, str | None] | None:
    """State and blanket, if the QEMUs say the same, and every blanket that is accepted is heard."""
    system = noted.system
    try:
        seen = system.subject()
        blankets = [system.blanket(name) for name in system.blankets]
    except Unavailable:
        return None
    if any(not one["connected"] and one["state"] != "revoked" for one in blankets):
        return None
    expected = {one["id"] for one in blankets if one["name"] == seen["blanket"]}
    running = noted.witness.running(noted.subject)
    if seen["state"] == "running":
        return ("running", seen["blanket"]) if running == expected else None
    if seen["state"] not in _NOWHERE or running:
        return None
    noted.reason = seen["reason"]
    return seen["state"], seen["blanket"]


def _after_a_start(noted: _Run) -> Disk | None:
    """It runs nowhere: start it where its disk is. None where that blanket, or what is in it, is lost."""
    system = noted.system
    seen = system.subject()
    if seen["blanket"] is None or system.blanket(seen["blanket"])["state"] == "revoked":
        return None
    deadline = time.monotonic() + _SETTLES_S
    while True:
        ended = system.finished(system.act("start"), timeout_s=_ENDS_S)
        if ended == "succeeded":
            return _disk(noted)
        if noted.cell.may_lose_disk and _LOST in ended:
            noted.reason = noted.reason or ended
            system.forget_subject()
            return None
        if time.monotonic() > deadline:
            raise Late(f"it cannot be started again: {ended}")
        time.sleep(_LOOK_S)  # its right has to run out, by the store's clock


def _disk(noted: _Run) -> Disk:
    return noted.system.talks(lambda said: compare(noted.before, noted.boots, said))


def _judged(cell: Cell, noted: _Run, end: End, disk: Disk | None, copies: int) -> list[str]:
    if end is End.UNSETTLED:
        return [f"{copies} copies ran at once"] if copies > cell.copies else []
    wrong = []
    if end not in cell.expected:
        wrong.append(f"it {end}; expected: {', '.join(sorted(cell.expected))}")
    if copies > cell.copies:
        wrong.append(f"{copies} copies ran at once")
    if copies == 0:
        wrong.append("the observer saw no copy at all")
    if disk is not None and not disk.whole:
        wrong.append(f"synced data are lost: {disk.said}")
    if end is End.NONE and not cell.was_stopped and not noted.reason:
        wrong.append("it runs nowhere, and no reason is given")
    return wrong


@contextmanager
def left_in_order(system: System) -> Iterator[None]:
    """Whatever happens inside, nothing stays frozen, cut, stopped or dead."""
    try:
        yield
    finally:
        system.mend()
