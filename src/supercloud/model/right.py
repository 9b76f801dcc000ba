"""The run right: the single right to run an instance (instance, epoch, blanket, expiry).

Pure decisions, no I/O: the store loads a `RightRecord`, calls one of these functions, and saves what comes
back in the same transaction. The simulation calls the same functions, so what is proved there is what runs.

Times ending in `_at` are seconds on the *store's* clock (one clock for one store, see ports.clock); the
holder never sees them: it gets a length and counts from before it sent its request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from supercloud.model.errors import InvalidInput, RightRefused
from supercloud.model.names import Epoch, Id, Nonce

#: Whole seconds after which a blanket whose keeper hangs is reset by its kernel's watchdog. Until then it may
#: run what its right does not cover any more, so that every margin has to be longer.
WATCHDOG_S = 12
#: What a margin needs beyond that: clocks of different rates, and whole seconds.
_SPARE_S = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RightTerms:
    """How long rights last. Chosen for each cloud; `supercloud status` counts down.

    A controller restart pauses nobody as long as it takes less than `length_s - renew_every_s`.
    """

    length_s: float = 60.0  # from the grant to the holder's own deadline
    margin_s: float = 15.0  # what the store waits beyond that: clock drift and the keeper's reaction
    grace_s: float = 300.0  # how long an expired instance stays paused before its memory is given up
    renew_every_s: float = 10.0

    def check(self) -> None:
        """
        Raises:
            InvalidInput: with them a right could not be kept, or would not be enough.
        """
        shortest = 1.5 * self.renew_every_s
        if not shortest <= self.length_s <= 3600:
            raise InvalidInput(
                f"a right has to last for {shortest:g} to 3600 s, renewed every {self.renew_every_s:g} s"
            )
        if not WATCHDOG_S + _SPARE_S <= self.margin_s <= 600:
            raise InvalidInput(
                f"the margin has to be {WATCHDOG_S + _SPARE_S} to 600 s, since a blanket whose keeper hangs"
                f" is reset only {WATCHDOG_S} s after a right's end"
            )
        if not 0 <= self.grace_s <= 86400:
            raise InvalidInput("the grace time, how long a paused instance keeps its memory, is 0 to 86400 s")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRight:
    """What a holder is handed. `length_s` counts from before the holder sent its request."""

    instance: Id
    epoch: Epoch
    blanket: Id
    nonce: Nonce  # to be consumed by the next renewal
    length_s: float
    grace_s: float
    hold: bool = (
        False  # `hold`: run on while nobody can be reached (the owner's choice); never set on a refusal
    )
    #: A migration away from here is not decided: what was handed over must not go on before it is.
    contested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RightRecord:
    """The store's one row for an instance. `holder is None`: nobody may run it."""

    instance: Id
    epoch: Epoch = 0
    holder: Id | None = None
    expires_at: float = 0.0
    nonce: Nonce | None = None
    #: The renewal that was answered last: its request id and the nonce it consumed, so that a lost answer
    #: can be asked for again with the same request and only with it.
    last_request: Nonce | None = None
    last_consumed: Nonce | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A holder's request. `request` is fresh and random for each attempt that is not a repeat."""

    instance: Id
    epoch: Epoch
    nonce: Nonce
    request: Nonce


class Cloned(RightRefused):
    """A consumed nonce came again in another request: the blanket was rolled back or cloned. Revoke it."""

    code = "cloned"


def is_free(record: RightRecord, *, now: float, margin_s: float) -> bool:
    """Whether nobody can be running the instance by right: given up, or over by more than the margin.

    A `hold` right is never free by time alone: taking it needs proof that the old copy is dead.
    """
    if record.holder is None:
        return True
    return not record.hold and now > record.expires_at + margin_s


def issue(
    record: RightRecord,
    *,
    to: Id,
    now: float,
    terms: RightTerms,
    nonce: Nonce,
    hold: bool = False,
    quarantined_until: float = 0.0,
) -> RightRecord:
    """Epoch + 1 to blanket `to`. `now` is read after the previous state was loaded under lock.

    Raises:
        RightRefused: somebody may still hold the right, or the store was just restored (`quarantined_until`).
    """
    if now < quarantined_until:
        wait_s = quarantined_until - now
        raise RightRefused(f"rights do not move for another {wait_s:.0f} s after the store came back")
    if not is_free(record, now=now, margin_s=terms.margin_s):
        raise RightRefused(f"blanket {record.holder} holds the right of epoch {record.epoch}")
    return RightRecord(
        instance=record.instance,
        epoch=record.epoch + 1,
        holder=to,
        expires_at=now + terms.length_s,
        nonce=nonce,
        hold=hold,
    )


def renew(
    record: RightRecord, asked: Renewal, *, by: Id, now: float, terms: RightTerms, nonce: Nonce
) -> RightRecord:
    """The same right, longer. A repeat of the last request gets the last answer again.

    An expired right that nobody took may be renewed: the healed holder goes on at the same epoch, since
    no one else ever ran.

    Raises:
        RightRefused: another holder or epoch.
        Cloned: a nonce consumed before, in a request never answered: revoke the blanket.
    """
    if record.holder != by or record.epoch != asked.epoch:
        raise RightRefused(f"blanket {by} does not hold epoch {asked.epoch}; the store is at {record.epoch}")
    if asked.request == record.last_request and asked.nonce == record.last_consumed:
        return record
    if asked.nonce != record.nonce:
        raise Cloned(f"blanket {by} presented a nonce that was already consumed")
    return replace(
        record,
        expires_at=now + terms.length_s,
        nonce=nonce,
        last_request=asked.request,
        last_consumed=asked.nonce,
    )


def surrender(record: RightRecord, *, by: Id, epoch: Epoch) -> RightRecord:
    """Nobody holds the right any more. Repeating it does no harm; another's right is not touched.

    Raises:
        RightRefused: `by` is not the holder of that epoch.
    """
    if record.epoch == epoch and record.holder is None:
        return record
    if record.holder != by or record.epoch != epoch:
        raise RightRefused(f"blanket {by} does not hold epoch {epoch}; the store is at {record.epoch}")
    return replace(record, holder=None, nonce=None, expires_at=0.0, last_request=None, last_consumed=None)


def raise_above(record: RightRecord, *, reported: Epoch) -> RightRecord:
    """After a restore: go on above the highest epoch that any agent reports (docs/adr/0004-run-right.md)."""
    return record if reported <= record.epoch else replace(record, epoch=reported, holder=None, nonce=None)


def granted(record: RightRecord, terms: RightTerms) -> RunRight:
    """What the holder of `record` is handed.

    Raises:
        RightRefused: nobody holds it.
    """
    if record.holder is None or record.nonce is None:
        raise RightRefused("nobody holds this right")
    return RunRight(
        instance=record.instance,
        epoch=record.epoch,
        blanket=record.holder,
        nonce=record.nonce,
        length_s=terms.length_s,
        grace_s=terms.grace_s,
        hold=record.hold,
    )
