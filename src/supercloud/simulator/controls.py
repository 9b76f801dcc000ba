"""For each deliberate bug the schedule that shows it. Without the bug the same schedule has to pass."""

from __future__ import annotations

from supercloud.simulator.scenario import At, Plan

_SENT = "south.libvirtd: complete"  # the target has everything; its answer is on its way to the source
_LONG_S = 200.0


def _silenced(*more: At, seed: int = 1, length_s: float = 60.0) -> Plan:
    """The source's libvirt never hears that it ended and lets it go on; nobody hears the source."""
    cut = (At("cut north south", _SENT, seconds=_LONG_S), At("cut control north", _SENT, seconds=_LONG_S))
    return Plan(seed, "migrate", (*cut, *more), length_s=length_s)


#: The source stands still from that moment until after its right, and then goes on as if nothing had been.
_STOPPED = _silenced(At("stop north", _SENT, seconds=95.0))

CONTROLS: dict[str, Plan] = {
    "holder counts from the answer": _silenced(
        At("delay control north", "controller: saga begin ends", seconds=24)
    ),
    "store counts from before its commit": Plan(
        1, "migrate", (At("slow store", "controller: saga prepare begins", seconds=100),)
    ),
    "no margin": _silenced(At("hang keeper north", _SENT, after_s=18), length_s=30),
    "nonces are not consumed": Plan(
        1, "rotate", (At("roll back north", "controller: saga retire begins", after_s=25),), length_s=60
    ),
    "stops are not seen": _STOPPED,
    "any peer may speak for an instance": _silenced(At("stop north", _SENT, after_s=20, seconds=95)),
    "the target runs before the commit": Plan(1, "migrate"),
    "committed before the source has ended": _silenced(),
    "no quarantine after a restore": Plan(
        1,
        "migrate",
        (
            At("restore store", "controller: saga arrive begins"),
            At("cut control south", "controller: saga arrive begins", seconds=_LONG_S),
        ),
        then=("stop", "start"),
        length_s=60,
    ),
    "the watchdog is fed while the keeper hangs": _silenced(
        At("hang keeper north", _SENT, after_s=18, seconds=90), length_s=30
    ),
    "what libvirt resumes goes on": _STOPPED,
    "a refusal is not heeded": _silenced(),
    "cleaning up ends what was committed": Plan(1, "migrate"),
    "keys are used before peers know them": Plan(1, "rotate"),
}
