"""Rows of rights as renewals read and write them: a thousand a second where there are ten thousand instances.

An object of the ORM for each, which is looked at for changes, would take as long again as all the rest. A
renewal changes neither who holds a right nor its epoch, so that there is nothing to tell anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.names import Epoch, Id, Nonce
from supercloud.services.store.tables import Right


@dataclass(slots=True)
class RenewedRow:
    """What is asked of a `tables.Right` to renew it."""

    instance: Id
    epoch: Epoch
    holder: Id | None
    expires_at: float
    nonce: Nonce | None
    last_request: Nonce | None
    last_consumed: Nonce | None
    hold: bool
    length_s: float
    margin_s: float
    grace_s: float
    renew_every_s: float
    unsure: bool


_COLUMNS = Right.__table__.c
_WRITTEN = ("expires_at", "nonce", "last_request", "last_consumed", "unsure")
#: Both made once: to put a statement together takes longer than to carry it out. Locked in one order, as in
#: services.store.rights.
_LOCKED = (
    select(*(_COLUMNS[field.name] for field in fields(RenewedRow)))
    .where(_COLUMNS.instance.in_(bindparam("instances", expanding=True)))
    .order_by(_COLUMNS.instance)
    .with_for_update()
)
_WRITE = (
    update(Right.__table__)  # type: ignore[arg-type]  # which SQLAlchemy types as any FROM
    .where(_COLUMNS.instance == bindparam("of"))
    .values({name: bindparam(f"new_{name}") for name in _WRITTEN})
)


async def locked(session: AsyncSession, instances: Collection[Id]) -> dict[Id, RenewedRow]:
    """Of those that there are."""
    found = await session.execute(_LOCKED, {"instances": list(instances)})
    return {row[0]: RenewedRow(*row) for row in found}


async def write(session: AsyncSession, rows: Iterable[RenewedRow]) -> None:
    """What renewing changed in them."""
    values = [
        {"of": row.instance, **{f"new_{name}": getattr(row, name) for name in _WRITTEN}} for row in rows
    ]
    if values:
        await session.execute(_WRITE, values)
