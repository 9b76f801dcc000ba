"""The keeper's decisions: who may run here, until when, and what is done about the others. Pure, no I/O.

A right lasts, in the holder's CLOCK_BOOTTIME, for its length from *before* its renewal was sent; the store
counts from after it committed the renewal, so the holder's deadline is never the later one. What is handed
to us unasked (a right pushed with a start) was issued at a moment that we cannot bound: it gives no time
until it has been renewed, unless the caller names a moment that certainly came before it was issued.

The process around this reads the clocks, writes `snapshot()` down before it sends a renewal or acknowledges a
grant, and carries the actions out. The simulation drives the very same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from supercloud.keeper.stops import Baseline, Moment, compare
from supercloud.model.errors import RightRefused
from supercloud.model.names import Epoch, Id, Nonce
from supercloud.model.right import Cloned, Renewal, RunRight
from supercloud.ports.controller import RenewalAnswer


class Lost(StrEnum):
    """Why a right gives nothing although its time may not be over."""

    MACHINE_STOPPED = "machine-stopped"  # time passed that our clock did not see; a renewal mends it
    REFUSED = "refused"  # the store said no: somebody else's, for good
    CLONED = "cloned"  # the store saw our nonce twice: this blanket is revoked, for good
    REBOOTED = "rebooted"  # what it was for died with the last boot
    ENDED = "ended"  # we ended its process after the grace time


_NEVER_AGAIN = frozenset({Lost.REFUSED, Lost.CLONED})
_RENEWABLE = frozenset({None, Lost.MACHINE_STOPPED})
#: How often to ask whether what was sent may go on; first after this time, since until then the guest waits
#: for the same processors to bring it to its target.
_SENT_EVERY_S = 2.0
#: Answers that say nothing about the right: the heartbeat counts as unanswered.
_NO_ANSWER = frozenset({"unavailable", "outcome-unknown", "exhausted"})


class Seen(StrEnum):
    """What QEMU itself says of an instance's process."""

    RUNNING = "running"
    PAUSED = "paused"
    IDLE = "idle"  # has a process that executes nothing and must not be continued: receiving, …
    SENT = "sent"  # the same, and all that it was has been sent to another blanket, which may have it by now
    MUTE = "mute"  # has a process that does not answer: taken as running
    #: Has a process that was begun with its guest standing still, before our eyes, and has not answered yet
    #: (monitors.BEGIN_S): it executes nothing unless it is told to.
    BEGINNING = "beginning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A renewal that was sent and not answered yet. Sent again only as it is."""

    request: Nonce
    nonce: Nonce
    at_s: float | None  # BOOTTIME before it was first sent; None: the machine was stopped since, so no bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One right. Times are CLOCK_BOOTTIME seconds."""

    right: RunRight
    deadline_s: float  # runs until here, unless lost before
    stop_s: float  # paused ever since, its memory is given up here
    renewed_s: float | None = None  # what the present length counts from; None: renew now
    asked: Asked | None = None
    lost: Lost | None = None
    resumable: bool = False  # paused by the keeper, not by the owner: goes on with a new right
    #: When it was seen sent: from then on what runs here may be committed elsewhere, so that it executes
    #: nothing before the store has said, asked later than this, that no migration is open any more.
    sent_s: float | None = None
    parked: bool = False  # sent, and its disks are held here so that nothing makes it go on but ourselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that must survive a restart of the keeper."""

    baseline: Baseline
    held: tuple[Held, ...] = ()
    epochs: dict[Id, Epoch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    instance: Id
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End its process; its memory is lost."""

    instance: Id
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    instance: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Let its traffic out for `seconds`; 0 ends it now."""

    instance: Id
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Hold the disks of what was sent, if they are not held already."""

    instance: Id


Action = Pause | Stop | Resume | Permit | Park


class Rights:
    """All rights of one blanket. Every method takes the present moment first of all to see stops in it."""

    def __init__(
        self,
        *,
        nonce: Callable[[], Nonce],
        at: Moment,
        restored: Snapshot | None = None,
        renew_every_s: float = 10.0,
    ) -> None:
        self._nonce = nonce
        self._every_s = renew_every_s
        self._held: dict[Id, Held] = {}
        self._epochs: dict[Id, Epoch] = {}
        self._permitted: dict[Id, float] = {}
        baseline: Baseline | None = None
        if restored is not None:
            self._epochs = dict(restored.epochs)
            self._held = {held.right.instance: held for held in restored.held}
            baseline = restored.baseline
            if baseline.boot_id != at.boot_id:
                for instance, held in self._held.items():
                    if held.lost not in _NEVER_AGAIN:
                        self._held[instance] = replace(held, lost=Lost.REBOOTED, asked=_unbound(held.asked))
        #: How many stops of this machine were seen.
        self.stops = 0
        self._baseline, _ = compare(None, at)
        if baseline is not None and baseline.boot_id == at.boot_id:
            self._baseline = baseline
            self._look(at)

    # ------------------------------------------------------------ what is so

    @property
    def held(self) -> Mapping[Id, Held]:
        return self._held

    @property
    def epochs(self) -> Mapping[Id, Epoch]:
        """The highest epoch ever held here, for each instance; kept after the right is forgotten."""
        return self._epochs

    def snapshot(self) -> Snapshot:
        return Snapshot(baseline=self._baseline, held=tuple(self._held.values()), epochs=dict(self._epochs))

    def may_run(self, instance: Id, at: Moment) -> bool:
        """Whether it may execute now. `hold` outlasts its time, but neither a refusal nor a stop."""
        held = self._held.get(instance)
        if held is None or held.lost is not None or held.sent_s is not None:
            return False
        if held.right.hold and held.renewed_s is not None:
            return True
        return at.boottime_s < held.deadline_s

    def left_s(self, instance: Id, at: Moment) -> float:
        """Seconds until it is paused unless renewed; 0 when it may not run."""
        held = self._held.get(instance)
        if held is None or held.lost is not None:
            return 0.0
        return max(0.0, held.deadline_s - at.boottime_s)

    def why_not(self, instance: Id) -> str:
        """One word for people and reports."""
        held = self._held.get(instance)
        if held is None:
            return "no-right"
        if held.lost is not None:
            return held.lost.value
        return "expired" if held.sent_s is None else "sent"

    def may_execute(self, instance: Id, shows: Seen) -> bool:
        """Whether what shows so may be executing, for all that is known here.

        Whoever tells one that begins to go on waits before until it has a right here that gives time; libvirt
        by itself does it to a migration's source alone, which has answered long since.
        """
        held = self._held.get(instance)
        had_time = held is not None and (held.renewed_s is not None or held.lost is not None)
        return shows in (Seen.RUNNING, Seen.MUTE) or (shows is Seen.BEGINNING and had_time)

    def at_fault(self, at: Moment, seen: Mapping[Id, Seen]) -> dict[Id, str]:
        """What executes here without a right, and why it has none. While there is any, nobody feeds the
        watchdog."""
        return {
            instance: self.why_not(instance)
            for instance, shows in seen.items()
            if self.may_execute(instance, shows) and not self.may_run(instance, at)
        }

    def may_feed(self, at: Moment, seen: Mapping[Id, Seen]) -> bool:
        """Whether the watchdog may be fed."""
        return not self.at_fault(at, seen)

    # ------------------------------------------------------------ what others say

    def grant(self, right: RunRight, at: Moment, *, counted_from_s: float | None = None) -> None:
        """Take a right that was handed to us. A repeat changes nothing.

        `counted_from_s`: BOOTTIME of a moment in this boot that certainly came before the right was issued.

        Raises:
            RightRefused: of an epoch that is over, or that the store has refused us.
        """
        self._look(at)
        highest = self._epochs.get(right.instance, 0)
        held = self._held.get(right.instance)
        if right.epoch < highest or (right.epoch == highest and held is None):
            raise RightRefused(f"epoch {right.epoch} is over: {highest} was held here")
        if held is not None and held.right.epoch == right.epoch:
            if held.lost in _NEVER_AGAIN:
                raise RightRefused(f"epoch {right.epoch} was refused to this blanket ({held.lost})")
            if held.lost in _RENEWABLE:
                return
            # Ours again after a reboot. What we know of its nonce is newer than what a repeat carries.
            self._held[right.instance] = replace(
                held,
                lost=None,
                asked=_unbound(held.asked),
                renewed_s=None,
                deadline_s=at.boottime_s,
                stop_s=at.boottime_s + right.length_s + right.grace_s,
            )
            return
        deadline_s = at.boottime_s if counted_from_s is None else counted_from_s + right.length_s
        self._epochs[right.instance] = right.epoch
        self._held[right.instance] = Held(
            right=right,
            deadline_s=deadline_s,
            # A copy that waits for its first renewal is worth keeping as long as the store keeps the right.
            stop_s=at.boottime_s + right.length_s + right.grace_s,
            renewed_s=counted_from_s,
        )

    def due(self, at: Moment) -> tuple[Renewal, ...]:
        """The renewals to send now: new ones, and again those whose answer never came."""
        self._look(at)
        renewals = []
        for instance, held in self._held.items():
            if held.lost not in _RENEWABLE or not (held.asked or self._is_due(held, at)):
                continue
            asked = held.asked or Asked(request=self._nonce(), nonce=held.right.nonce, at_s=at.boottime_s)
            self._held[instance] = replace(held, asked=asked)
            renewals.append(
                Renewal(instance=instance, epoch=held.right.epoch, nonce=asked.nonce, request=asked.request)
            )
        return tuple(renewals)

    def _is_due(self, held: Held, at: Moment) -> bool:
        if held.renewed_s is None or held.lost is Lost.MACHINE_STOPPED:
            return True
        if held.sent_s is not None:
            return at.boottime_s >= max(held.renewed_s, held.sent_s) + _SENT_EVERY_S
        return at.boottime_s >= held.renewed_s + min(self._every_s, held.right.length_s / 3)

    def answered(self, renewals: Sequence[Renewal], answers: Iterable[RenewalAnswer], at: Moment) -> bool:
        """Take the answers to `renewals`, in their order; whether any of them said anything of a right.

        An answer to nothing that we asked is dropped.
        """
        self._look(at)
        settled = False
        for renewal, answer in zip(renewals, answers, strict=False):
            held = self._held.get(renewal.instance)
            if (
                held is None
                or answer.instance != renewal.instance
                or held.right.epoch != renewal.epoch
                or held.asked is None
                or held.asked.request != renewal.request
            ):
                continue
            if answer.right is not None and answer.right.epoch == renewal.epoch:
                self._held[renewal.instance] = _renewed(held, held.asked, answer.right)
                settled = True
            elif answer.refused is not None and answer.refused not in _NO_ANSWER:
                lost = Lost.CLONED if answer.refused == Cloned.code else Lost.REFUSED
                self._held[renewal.instance] = self._losing(held, lost, at)
                settled = True
        return settled

    def forget(self, instance: Id) -> None:
        """Its process is proved to have ended. Its highest epoch stays known."""
        self._held.pop(instance, None)

    def park(self, instance: Id) -> bool:
        """Its disks are held: it goes on by `Resume` alone, if it is ours still. False: it was not sent."""
        held = self._held.get(instance)
        if held is None or held.sent_s is None:
            return False
        self._held[instance] = replace(held, parked=True, resumable=True)
        return True

    def stopped(self, instance: Id) -> None:
        """We ended its process after its grace: the right is not renewed, so that others can take it."""
        held = self._held.get(instance)
        if held is not None and held.lost not in _NEVER_AGAIN:
            self._held[instance] = replace(held, lost=Lost.ENDED, asked=_unbound(held.asked), resumable=False)

    def unpermitted(self, instance: Id) -> None:
        """Its traffic permit could not be set, or the packet filter is new: set it again."""
        self._permitted.pop(instance, None)

    # ------------------------------------------------------------ what to do

    def tick(self, at: Moment, seen: Mapping[Id, Seen]) -> list[Action]:
        """What to do now about every process that `seen` shows. Called each second and at every event."""
        self._look(at)
        actions: list[Action] = []
        for instance, shows in seen.items():
            held = self._held.get(instance)
            if shows is Seen.SENT and held is not None and held.sent_s is None and not held.parked:
                self._held[instance] = replace(held, sent_s=at.boottime_s, resumable=True)
            actions += self._about(instance, shows, at)
        return actions + self._permits(at)

    def _about(self, instance: Id, shows: Seen, at: Moment) -> list[Action]:
        held = self._held.get(instance)
        if held is not None and self.may_run(instance, at):
            return self._goes_on(instance, held, shows)
        reason = self.why_not(instance)
        if held is not None and at.boottime_s >= held.stop_s and not _keeps_memory(held):
            return [Stop(instance=instance, reason=reason)]
        if shows is Seen.SENT and held is not None and held.parked:
            return [Park(instance=instance)]
        if not self.may_execute(instance, shows):
            return []
        if held is not None:
            self._held[instance] = replace(held, resumable=True)
        return [Pause(instance=instance, reason=reason)]

    def _goes_on(self, instance: Id, held: Held, shows: Seen) -> list[Action]:
        if held.parked and shows is Seen.SENT:
            return [Resume(instance=instance)]  # until it does: that it shows so is not news
        resumes = held.resumable and shows is Seen.PAUSED
        self._held[instance] = replace(held, resumable=False, parked=False)
        return [Resume(instance=instance)] if resumes else []

    def _permits(self, at: Moment) -> list[Action]:
        """Changes to make in the packet filter, which ends each permit by itself when its time is over."""
        actions: list[Action] = []
        for instance, held in self._held.items():
            if not self.may_run(instance, at):
                continue
            until_s = held.deadline_s
            if held.right.hold:
                until_s = max(until_s, at.boottime_s + held.right.length_s)
            known_s = self._permitted.get(instance)
            # A hold right's end moves all the time: touch the filter only when half of the permit is used.
            slack_s = held.right.length_s / 2 if held.right.hold else 0.0
            if known_s is None or until_s > known_s + slack_s:
                self._permitted[instance] = until_s
                actions.append(Permit(instance=instance, seconds=until_s - at.boottime_s))
        for instance in [known for known in self._permitted if not self.may_run(known, at)]:
            del self._permitted[instance]
            actions.append(Permit(instance=instance, seconds=0.0))
        return actions

    # ------------------------------------------------------------ stops

    def _look(self, at: Moment) -> None:
        self._baseline, was_stopped = compare(self._baseline, at)
        if not was_stopped:
            return
        self.stops += 1
        for instance, held in self._held.items():
            lost = held.lost if held.lost is not None else Lost.MACHINE_STOPPED
            self._held[instance] = self._losing(replace(held, asked=_unbound(held.asked)), lost, at)

    def _losing(self, held: Held, lost: Lost, at: Moment) -> Held:
        asked = held.asked if lost in _RENEWABLE else None
        stop_s = min(held.stop_s, at.boottime_s + held.right.grace_s)
        return replace(held, lost=lost, asked=asked, stop_s=stop_s)


def _unbound(asked: Asked | None) -> Asked | None:
    """Time passed that our clock did not count: the answer will bring a nonce, but no time."""
    return None if asked is None else replace(asked, at_s=None)


def _keeps_memory(held: Held) -> bool:
    """A `hold` right's instance is paused by a stop of the machine, but only a refusal ends it."""
    return held.right.hold and held.lost not in _NEVER_AGAIN


def _renewed(held: Held, asked: Asked, right: RunRight) -> Held:
    if asked.at_s is None:  # only the nonce is of use: ask again, from now
        return replace(held, right=right, asked=None, renewed_s=None)
    deadline_s = asked.at_s + right.length_s
    sent = held.sent_s is not None and (right.contested or asked.at_s <= held.sent_s)
    return replace(
        held,
        sent_s=held.sent_s if sent else None,
        right=right,
        deadline_s=deadline_s,
        stop_s=max(held.stop_s if held.lost is None else 0.0, deadline_s + right.grace_s),
        renewed_s=asked.at_s,
        asked=None,
        lost=None,
    )
