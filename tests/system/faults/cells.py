"""The matrix: which faults, at which moments, and what may come of each. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    CONTROLLER_KILLED = "controller killed"
    CONTROLLER_HUNG = "controller hung"  # by SIGSTOP, longer than the right
    STORE_RESTARTED = "store restarted"  # the key store as well
    STORE_RESTORED = "store restored"  # from a backup of before the operation
    AGENT_KILLED = "agent killed"
    KEEPER_KILLED = "keeper killed"
    KEEPER_HUNG = "keeper hung"
    BLANKET_KILLED = "blanket killed"
    BLANKET_FROZEN = "blanket frozen"  # longer than the right
    BLANKET_ROLLED_BACK = "blanket rolled back"  # to a snapshot of before the operation
    LINK_CUT = "link cut"  # longer than the right


class Side(StrEnum):
    """Whose blanket. An operation on one blanket has a source only."""

    SOURCE = "source"
    TARGET = "target"


class Moment(StrEnum):
    START = "start"
    STOP = "stop"
    BEFORE = "migration, before the commit"
    AFTER = "migration, after the commit"
    ROTATION = "key rotation"


class End(StrEnum):
    """What is so once the fault is over and everything has settled."""

    SOURCE = "runs at the source"
    TARGET = "runs at the target"
    SOURCE_ANEW = "runs at the source, booted anew"
    TARGET_ANEW = "runs at the target, booted anew"
    NONE = "runs nowhere"
    UNSETTLED = "did not settle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    kind: Kind
    side: Side | None
    moment: Moment

    @property
    def name(self) -> str:
        whose = f" ({self.side})" if self.side else ""
        return f"{self.kind}{whose} @ {self.moment}"

    @property
    def needs_shell(self) -> bool:
        """Whether it is done by a root shell in the blanket, which only blankets born with one have."""
        return self.kind in _INSIDE

    @property
    def moves(self) -> bool:
        return self.moment in (Moment.BEFORE, Moment.AFTER)

    @property
    def expected(self) -> frozenset[End]:
        return _expected(self.kind, self.side, self.moment)

    @property
    def was_stopped(self) -> bool:
        """Whether that it runs nowhere is what was asked for, or what a restored store knows of it."""
        return self.moment is Moment.STOP or (
            self.moment is Moment.START and self.kind is Kind.STORE_RESTORED
        )

    @property
    def may_lose_disk(self) -> bool:
        """Whether the last copy may be one that a restored store never heard of, or that went with
        all that its blanket wrote since a snapshot."""
        rolled_back = self.kind is Kind.BLANKET_ROLLED_BACK and self.side is Side.TARGET
        return self.moment is Moment.AFTER and (rolled_back or self.kind is Kind.STORE_RESTORED)

    @property
    def copies(self) -> int:
        """At most so many may run at once.

        A source that is brought back to when it ran, after another took over, runs until its keeper looks at
        the clocks, at most a second: nobody accepts what it sends. This is the window that the threat model
        names, and the only one.
        """
        rolled_back = self.kind is Kind.BLANKET_ROLLED_BACK and self.side is Side.SOURCE
        return 2 if rolled_back and self.moment is Moment.AFTER else 1


_INSIDE = frozenset({Kind.AGENT_KILLED, Kind.KEEPER_KILLED, Kind.KEEPER_HUNG})
_CENTRAL = (Kind.CONTROLLER_KILLED, Kind.CONTROLLER_HUNG, Kind.STORE_RESTARTED, Kind.STORE_RESTORED)
#: What takes the memory of all that runs in a blanket with it.
_DEADLY = frozenset({Kind.KEEPER_HUNG, Kind.BLANKET_KILLED})
#: After these the cloud is put in order again at some cost, so they come last.
_LAST = (Kind.BLANKET_ROLLED_BACK, Kind.STORE_RESTORED)

_AT_SOURCE = frozenset({End.SOURCE, End.SOURCE_ANEW})


def _expected(kind: Kind, side: Side | None, moment: Moment) -> frozenset[End]:
    match moment:
        case Moment.STOP:
            return _of_stop(kind)
        case Moment.START:
            return _of_start(kind)
        case Moment.ROTATION:
            return _of_rotation(kind)
        case Moment.BEFORE:
            return _before(kind, side)
        case Moment.AFTER:
            return _after(kind, side)


def _of_start(kind: Kind) -> frozenset[End]:
    """It boots for the first time in this cell, so whether anew says nothing. A blanket that is taken away
    may take the start with it; a restored store does not know that it was started."""
    if kind in (Kind.CONTROLLER_KILLED, Kind.STORE_RESTARTED):
        return _AT_SOURCE
    return _AT_SOURCE | {End.NONE}


def _of_stop(kind: Kind) -> frozenset[End]:
    """Of a blanket that cannot be reached it is not known whether it heard; the operation fails then and says
    so, and what did not hear runs on. A restored store has forgotten that it asked."""
    unsure = kind in (Kind.LINK_CUT, Kind.STORE_RESTORED)
    return frozenset({End.NONE, End.SOURCE} if unsure else {End.NONE})


def _of_rotation(kind: Kind) -> frozenset[End]:
    if kind is Kind.BLANKET_ROLLED_BACK:
        return frozenset({End.NONE})
    if kind in _DEADLY:
        return frozenset({End.NONE, End.SOURCE_ANEW})
    return frozenset({End.SOURCE})


def _before(kind: Kind, side: Side | None) -> frozenset[End]:
    if kind in (Kind.CONTROLLER_KILLED, Kind.STORE_RESTARTED):
        return frozenset({End.TARGET})
    if kind is Kind.STORE_RESTORED:  # the transfer ends by itself, and nobody remembers what it was for
        return _AT_SOURCE | {End.NONE}
    if side is Side.TARGET:
        return frozenset({End.SOURCE} if kind in _DEADLY else {End.SOURCE, End.TARGET})
    return _SOURCE_BEFORE.get(kind, frozenset({End.SOURCE, End.TARGET}))


_SOURCE_BEFORE = {
    **dict.fromkeys(_DEADLY, frozenset({End.SOURCE_ANEW, End.NONE})),
    Kind.BLANKET_ROLLED_BACK: frozenset({End.NONE}),  # it is revoked, and nobody else has the whole of it
    Kind.BLANKET_FROZEN: _AT_SOURCE | {End.NONE},
    Kind.LINK_CUT: _AT_SOURCE | {End.NONE},
}


def _after(kind: Kind, side: Side | None) -> frozenset[End]:
    if side is Side.TARGET and kind in _DEADLY:
        return frozenset({End.TARGET_ANEW, End.NONE})
    if side is Side.TARGET and kind is Kind.BLANKET_ROLLED_BACK:
        return frozenset({End.SOURCE_ANEW, End.NONE})
    if kind is Kind.STORE_RESTORED:
        return frozenset({End.TARGET, End.NONE})
    return frozenset({End.TARGET})


def matrix() -> list[Cell]:
    """Every cell, in the order in which they cost least."""
    kinds = [kind for kind in Kind if kind not in _LAST]
    return [cell for kind in (*kinds, *_LAST) for cell in _of(kind)]


def _of(kind: Kind) -> list[Cell]:
    sides: tuple[Side | None, ...] = (None,) if kind in _CENTRAL else (Side.SOURCE, Side.TARGET)
    return [
        cell
        for moment in Moment
        for side in sides
        if (cell := Cell(kind=kind, side=side, moment=moment)).moves or side is not Side.TARGET
    ]


def sample(seed: int) -> list[Cell]:
    """Two faults on either side of the commit, all from outside, that leave the cloud as it was."""
    pool = [cell for cell in matrix() if not cell.needs_shell and cell.kind not in _LAST]
    chance = random.Random(seed)  # noqa: S311 - a choice that a seed repeats
    kinds = chance.sample(sorted({cell.kind for cell in pool}), 4)
    moments = (Moment.BEFORE, Moment.BEFORE, Moment.AFTER, Moment.AFTER)
    return [
        chance.choice([cell for cell in pool if (cell.kind, cell.moment) == wanted])
        for wanted in zip(kinds, moments, strict=True)
    ]
