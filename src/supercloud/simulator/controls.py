"""For each deliberate bug the schedule that shows it. Without the bug the same schedule has to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

from supercloud.model.errors import Failed
from supercloud.simulator.bugs import ALL
from supercloud.simulator.scenario import At, Plan, Report, play

_SENT = "south.libvirtd: complete"  # the target has everything; its answer is on its way to the source
_LONG_S = 200.0


def _silenced(*more: At, seed: int = 1, length_s: float = 60.0) -> Plan:
    """The source's libvirt never hears that it ended and lets it go on; nobody hears the source."""
    cut = (At("cut north south", _SENT, seconds=_LONG_S), At("cut control north", _SENT, seconds=_LONG_S))
    return Plan(seed, "migrate", (*cut, *more), length_s=length_s)


#: The source stands still from that moment until after its right, and then goes on as if nothing had been.
_STOPPED = _silenced(At("stop north", _SENT, seconds=95.0))


@dataclass(frozen=True)
class Control:
    """`shows`: what the simulation says with the bug and not without it.

    `second_line`: off, it is shown with the second line taken off, which would hold the bug harmless.
    `held`: off, it is shown where nothing holds the disks of what was sent, which would do so as well.
    Some have to meet a renewal at the right moment, which another seed may do.
    """

    plan: Plan
    shows: str
    second_line: bool = True
    held: bool = True


_SEEDS = range(1, 13)


def shown(name: str) -> Report | None:
    """The first run that shows the bug of this name; None if the simulation is blind to it.

    Raises:
        Failed: the same run without the bug says the same, or says anything with the second line in place.
    """
    control = CONTROLS[name]
    sound, bugs = ALL["none"], ALL[name]
    without = sound if control.second_line else sound.without_second_line()
    bugs = bugs if control.second_line else bugs.without_second_line()
    if not control.held:
        without, bugs = replace(without, holds_no_disks=True), replace(bugs, holds_no_disks=True)
    for seed in _SEEDS:
        plan = replace(control.plan, seed=seed)
        report = play(plan, bugs)
        if not _says(report, control.shows):
            continue
        if _says(play(plan, without), control.shows):
            raise Failed(f"seed {seed} says “{control.shows}” without this bug too")
        if wrong := play(plan, sound).wrong:
            raise Failed(f"seed {seed}, nothing put in: {wrong[0]}")
        return report
    return None


def _says(report: Report, what: str) -> bool:
    return any(what in wrong for wrong in report.wrong)


_TWO = " executes in north and south"

CONTROLS: dict[str, Control] = {
    "what was sent goes on": Control(_silenced(), "synced writes are lost", held=False),
    "holder counts from the answer": Control(
        # From when only one more word is said to the source before it sends: it then ends sending while the
        # one renewal that was answered late is the last that was committed.
        _silenced(At("delay control north", "controller: send channel migration.receive", seconds=24)),
        _TWO,
        second_line=False,
        held=False,
    ),
    "store counts from before its commit": Control(
        Plan(1, "migrate", (At("slow store", "controller: saga prepare begins", seconds=100),)),
        "from before its commit",
    ),
    "no margin": Control(
        _silenced(At("hang keeper north", _SENT, after_s=57)), _TWO, second_line=False, held=False
    ),
    "nonces are not consumed": Control(
        Plan(
            1, "rotate", (At("roll back north", "controller: saga retire begins", after_s=12),), length_s=60
        ),
        "goes on from an older state",
    ),
    "stops are not seen": Control(_STOPPED, _TWO, second_line=False, held=False),
    "a stop around a nested blanket is not passed on": Control(
        replace(_STOPPED, nested=("north",)), _TWO, second_line=False, held=False
    ),
    "any peer may speak for an instance": Control(
        _silenced(At("stop north", _SENT, after_s=20, seconds=95)),
        "is accepted from",
        second_line=False,
        held=False,
    ),
    "the target runs before the commit": Control(Plan(1, "migrate"), "without the right to"),
    "committed before the source has ended": Control(_silenced(), _TWO, second_line=False, held=False),
    "what is parked is not held": Control(
        Plan(1, "migrate", (At("cut north south", _SENT, seconds=_LONG_S),)), _TWO
    ),
    "no quarantine after a restore": Control(
        Plan(
            1,
            "migrate",
            (
                At("restore store", "controller: saga arrive begins"),
                At("cut control south", "controller: saga arrive begins", seconds=_LONG_S),
            ),
            then=("stop", "start"),
            length_s=60,
        ),
        _TWO,
    ),
    "the watchdog is fed while the keeper hangs": Control(
        _silenced(At("hang keeper north", _SENT, after_s=18, seconds=90), length_s=30),
        _TWO,
        second_line=False,
        held=False,
    ),
    "what libvirt resumes goes on": Control(_STOPPED, _TWO, held=False),
    "a refusal is not heeded": Control(_silenced(), _TWO, second_line=False, held=False),
    "cleaning up ends what was committed": Control(Plan(1, "migrate"), "does not run any more"),
    "keys are used before peers know them": Control(Plan(1, "rotate"), "does not know the key"),
    "the target's volume is not looked for": Control(
        Plan(1, "migrate", (At("roll back south", "south.libvirtd: complete", after_s=0.015),)),
        "the volume is gone",
    ),
    "what is in force is not given": Control(
        Plan(1, "start", guarded=True), "without what is in force about it"
    ),
    "a lost volume is made anew": Control(
        Plan(1, "migrate", (At("roll back south", "controller: saga clean up is remembered"),)),
        "an empty volume passes",
    ),
}
