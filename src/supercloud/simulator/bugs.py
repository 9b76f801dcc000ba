"""Bugs put in on purpose: each breaks one safety rule, and the simulation must fail with it.

A flag of the tests: the product has none of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from supercloud.agent.migration import Migration
from supercloud.blanket.overlay import plan
from supercloud.keeper.rights import Action, Pause, Rights, Seen, Stop
from supercloud.keeper.stops import Moment
from supercloud.model import migration, right
from supercloud.model.migration import Outcome, Source, Target
from supercloud.model.names import Id
from supercloud.model.right import Renewal, RightRecord
from supercloud.ports.controller import RenewalAnswer
from supercloud.ports.loop import Guard
from supercloud.services import facade
from supercloud.services.sagas import migrate, rotate, sight
from supercloud.services.store import incarnation
from supercloud.services.store import rights as store_rights
from supercloud.services.world import StoreWorld


@dataclass(frozen=True)
class Bugs:
    """None, as it stands."""

    name: str = "none"
    rights: type[Rights] = Rights
    watchdog_is_fed_anyway: bool = False
    holds_no_disks: bool = False  # what is parked is not: nothing locks its disks
    clock_around_stays_behind: bool = False  # a keeper does not set the clock of what is inside it
    target_runs_at_once: bool = False  # libvirt is not told to leave the target paused
    margin_s: float | None = None
    patches: tuple[tuple[Any, str, Any], ...] = ()

    def without_second_line(self) -> Bugs:
        """The same bug where what was sent goes on."""
        both = SentGoesOn if self.rights is Rights else type("Both", (self.rights, SentGoesOn), {})
        return replace(self, rights=both)

    @contextmanager
    def put_in(self) -> Iterator[None]:
        with _all(self.patches):
            yield


@contextmanager
def _all(patches: tuple[tuple[Any, str, Any], ...]) -> Iterator[None]:
    if not patches:
        yield
        return
    (where, name, value), *rest = patches
    with patch.object(where, name, value), _all(tuple(rest)):
        yield


class CountsFromTheAnswer(Rights):
    def answered(self, renewals: Sequence[Renewal], answers: Iterable[RenewalAnswer], at: Moment) -> bool:
        for instance, held in self._held.items():
            if held.asked is not None:
                self._held[instance] = replace(held, asked=replace(held.asked, at_s=at.boottime_s))
        return super().answered(renewals, answers, at)


class SeesNoStops(Rights):
    def _look(self, at: Moment) -> None:
        return


class SentGoesOn(Rights):
    """What was handed over goes on before its migration is decided. Also what has to be taken off before
    some of the other bugs can do any harm: it is a second line behind them."""

    def tick(self, at: Moment, seen: Any) -> list[Action]:
        return super().tick(
            at, {one: Seen.IDLE if shows is Seen.SENT else shows for one, shows in seen.items()}
        )


class LetsRunWhatIsNotIts(Rights):
    """Pauses nothing that it did not let run itself: what libvirt resumes goes on."""

    def tick(self, at: Moment, seen: Any) -> list[Action]:
        return [action for action in super().tick(at, seen) if not isinstance(action, Pause | Stop)]

    def may_feed(self, at: Moment, seen: Any) -> bool:
        return True


class OutlivesARefusal(Rights):
    def answered(self, renewals: Sequence[Renewal], answers: Iterable[RenewalAnswer], at: Moment) -> bool:
        kept = [answer for answer in answers if answer.refused is None]
        return super().answered(renewals[: len(kept)], kept, at)

    def may_run(self, instance: Id, at: Moment) -> bool:
        held = self._held.get(instance)
        return held is not None and held.renewed_s is not None


def _nonce_stays(
    record: RightRecord, asked: Renewal, *, by: Id, now: float, terms: Any, nonce: str
) -> RightRecord:
    """Any nonce of this epoch will do."""
    return _renew(replace(record, nonce=asked.nonce), asked, by=by, now=now, terms=terms, nonce=nonce)


_renew, _settle, _begin = right.renew, migration.settle, incarnation._begin


async def _no_quarantine(session: Any, name: str, now: float, *, quarantine: bool) -> None:
    await _begin(session, name, now, quarantine=False)


def _complete_is_enough(source: Source, target: Target, *, transfer_over: bool) -> Outcome:
    if target is Target.COMPLETE:
        return Outcome.COMMIT
    return _settle(source, target, transfer_over=transfer_over)


async def _counts_from_before(self: Any, turn: Any) -> None:
    return


def _from_every_peer(segments: Any, peers: Any) -> Any:
    for segment in segments:
        for location in segment.locations:
            for peer in peers.values():
                device = plan.link_device(peer.vxlan_port, segment.network.id)
                yield device, location.mac, location.ip


async def _gone_whatever(self: Any, operation: Id, verdict: Any, *, source_gone: bool) -> Any:
    return await _decide(self, operation, verdict, source_gone=True)


async def _holds_nothing(self: Any, instance: Id) -> bool:
    return False


async def _tells_nobody(saga: Any, world: Any, *, cloud: Id) -> None:
    await rotate._prepare(world, cloud)
    await rotate._switch(world, cloud)
    await world.spread(cloud)


async def _forgets_what_was_made(self: Any, copy: Id) -> None:
    return


async def _has_them_anyway(world: Any, trip: Any) -> bool:
    return True


async def _nothing_is_kept(self: Any, instance: Id, *, operation: Id, target: Id) -> Guard:
    return Guard(operation=operation, instance=instance, at=0.0)


_decide = store_rights.SqlRights._decide

ALL: dict[str, Bugs] = {
    bug.name: bug
    for bug in (
        Bugs("none"),
        Bugs("holder counts from the answer", rights=CountsFromTheAnswer),
        Bugs(
            "store counts from before its commit",
            patches=(
                (store_rights, "_COMMIT_S", 0.0),
                (store_rights.SqlRights, "_count_from_commit", _counts_from_before),
            ),
        ),
        Bugs("no margin", margin_s=0.0),
        Bugs("nonces are not consumed", patches=((right, "renew", _nonce_stays),)),
        Bugs("what was sent goes on", rights=SentGoesOn),
        Bugs("stops are not seen", rights=SeesNoStops),
        Bugs("a stop around a nested blanket is not passed on", clock_around_stays_behind=True),
        Bugs("any peer may speak for an instance", patches=((plan, "_remote", _from_every_peer),)),
        Bugs("the target runs before the commit", target_runs_at_once=True),
        Bugs(
            "committed before the source has ended",
            patches=(
                (sight, "settle", _complete_is_enough),
                (store_rights.SqlRights, "_decide", _gone_whatever),
            ),
        ),
        Bugs("what is parked is not held", holds_no_disks=True, rights=LetsRunWhatIsNotIts),
        Bugs("no quarantine after a restore", patches=((incarnation, "_begin", _no_quarantine),)),
        Bugs("the watchdog is fed while the keeper hangs", watchdog_is_fed_anyway=True),
        Bugs("what libvirt resumes goes on", rights=LetsRunWhatIsNotIts),
        Bugs("a refusal is not heeded", rights=OutlivesARefusal),
        Bugs("cleaning up ends what was committed", patches=((Migration, "_holds", _holds_nothing),)),
        Bugs("keys are used before peers know them", patches=((facade, "rotate", _tells_nobody),)),
        Bugs("the target's volume is not looked for", patches=((migrate, "_has_volumes", _has_them_anyway),)),
        Bugs("what is in force is not given", patches=((StoreWorld, "kept_guard", _nothing_is_kept),)),
        Bugs("a lost volume is made anew", patches=((StoreWorld, "note_made", _forgets_what_was_made),)),
    )
}
