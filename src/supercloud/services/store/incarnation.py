"""Noticing that the store came back, and holding rights still until what it may have forgotten is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.ports.clock import StoreTime
from supercloud.services.store.tables import Meta, Right
from supercloud.services.store.time import RESTORES, Timekeeper

_INCARNATION = "incarnation"
_QUARANTINE = "quarantined_until"
_ADVISORY_LOCK = 0x5C_0002


@dataclass(frozen=True, slots=True)
class Moment:
    """Now on the store's clock, and until when no right moves."""

    now: float
    quarantined_until: float


async def look(session: AsyncSession, clock: Timekeeper) -> Moment | None:
    """None: this is another incarnation than the one remembered, which `begin` has to write down first."""
    time = await clock.read(session)
    known = await _remembered(session)
    if known.get(_INCARNATION) != _present(time, known):
        return None
    return Moment(time.now_s, float(known[_QUARANTINE]))


def _present(time: StoreTime, known: Mapping[str, str]) -> str:
    """The machine's or server's, and how often this state was restored."""
    return f"{time.incarnation}/{known.get(RESTORES, '0')}"


async def begin(session: AsyncSession, clock: Timekeeper) -> None:
    """Write the present incarnation down, in a transaction that does nothing else.

    It starts a quarantine of the longest length plus margin of all rights, counted on the new clock, to which
    every held right is moved as well.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    known = await _remembered(session)  # another controller may have been first
    time = await clock.read(session)
    if known.get(_INCARNATION) != (present := _present(time, known)):
        await _begin(session, present, time.now_s, quarantine=_INCARNATION in known)


async def _remembered(session: AsyncSession) -> dict[str, str]:
    found = await session.execute(
        select(Meta.key, Meta.value).where(Meta.key.in_((_INCARNATION, _QUARANTINE, RESTORES)))
    )
    return {row.key: row.value for row in found}


async def _begin(session: AsyncSession, incarnation: str, now: float, *, quarantine: bool) -> None:
    longest = await session.scalar(select(func.max(Right.length_s + Right.margin_s))) or 0.0
    if quarantine:
        await session.execute(
            update(Right)
            .values(unsure=True, expires_at=now + Right.length_s)
            .execution_options(synchronize_session=False)
        )
    until = now + longest if quarantine else 0.0
    for key, value in ((_INCARNATION, incarnation), (_QUARANTINE, repr(until))):
        await session.merge(Meta(key=key, value=value))
