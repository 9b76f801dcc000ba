"""Finding what a user named: by id, or by a name that is unique in its cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

from sqlalchemy import BindParameter, ColumnElement, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from supercloud.model.errors import Conflict, NotFound
from supercloud.model.names import Id
from supercloud.services.caller import Caller
from supercloud.services.requests import Ref
from supercloud.services.store.engine import CALLER
from supercloud.services.store.tables import (
    LOCKED,
    Base,
    Blanket,
    Cloud,
    Image,
    Instance,
    Network,
    Principal,
    Provider,
    Volume,
)

T = TypeVar("T", bound=Base)
R = TypeVar("R")
_CloudColumn = InstrumentedAttribute[str] | InstrumentedAttribute[str | None]


def within(session: AsyncSession, cloud: _CloudColumn) -> ColumnElement[bool]:
    """Whether a row is in a cloud that the session's caller may look into; `cloud`: the column that says."""
    caller = caller_of(session)
    return true() if caller is None else cloud.in_(caller.clouds)


def counted(session: AsyncSession, cloud: _CloudColumn) -> ColumnElement[bool]:
    """The same, for numbers, of which operators are told all."""
    caller = caller_of(session)
    return true() if caller is not None and caller.operator else within(session, cloud)


async def clouds_of(session: AsyncSession, cloud: Ref | None) -> tuple[Id, ...] | None:
    """The clouds to look into, if one was named or not. None: all.

    Raises: as find_cloud.
    """
    if cloud is not None:
        return ((await find_cloud(session, cloud)).id,)
    caller = caller_of(session)
    return None if caller is None else caller.clouds


def owned(session: AsyncSession, owner: InstrumentedAttribute[str | None]) -> ColumnElement[bool]:
    """Whether a row is the caller's own. What is nobody's is the operators'."""
    caller = caller_of(session)
    if caller is None:
        return true()
    return or_(owner == caller.principal, owner.is_(None)) if caller.operator else owner == caller.principal


def caller_of(session: AsyncSession) -> Caller | None:
    """None: the control plane itself."""
    found: Caller | None = session.info[CALLER]
    return found


def called(caller: Caller | None) -> str:
    """What it is called in what is kept."""
    return "the control plane" if caller is None else f"principal {caller.principal}"


def owner_of(session: AsyncSession) -> Id | None:
    """Whose something is that is made in this session."""
    caller = caller_of(session)
    return None if caller is None else caller.principal


class _Named(Protocol):
    id: InstrumentedAttribute[str]
    name: InstrumentedAttribute[str]
    cloud: InstrumentedAttribute[str]


def named(table: type[Base], ref: Ref | BindParameter[str]) -> ColumnElement[bool]:
    """Whether a row is what `ref` says."""
    has = cast(_Named, table)
    return or_(has.id == ref, has.name == ref)


async def _one(session: AsyncSession, table: type[T], ref: Ref, *conditions: ColumnElement[bool]) -> T:
    found = await session.scalars(select(table).where(named(table, ref), *conditions).limit(2))
    return the_one(found.all(), table.__name__.lower(), ref)


def the_one(found: Sequence[R], word: str, ref: Ref) -> R:
    """Of at most two things that `ref` means, the only one.

    Raises:
        NotFound; Conflict where a name means several things.
    """
    if not found:
        raise NotFound(
            f"there is no {word} {ref}",
            hint=f"supercloud {_COMMAND.get(word, word)} ls shows which there are",
        )
    if len(found) > 1:
        raise Conflict(f"several clouds have a {word} {ref}", hint="say which with --cloud")
    return found[0]


_COMMAND = {"instance": "vm"}


async def _in_cloud(session: AsyncSession, table: type[T], ref: Ref, cloud: Ref | None) -> T:
    if cloud is None:
        return await _one(session, table, ref, within(session, cast(_Named, table).cloud))
    owner = await find_cloud(session, cloud)
    return await _one(session, table, ref, cast(_Named, table).cloud == owner.id)


async def find_cloud(session: AsyncSession, ref: Ref) -> Cloud:
    """Of several of one name the caller's own: others may be in it, named by whose they are.

    Raises (all of these): NotFound; Conflict where a name means several things.
    """
    caller = caller_of(session)
    if caller is not None:
        mine = select(Cloud).where(named(Cloud, ref), within(session, Cloud.id))
        own = (await session.scalars(mine.where(Cloud.owner == caller.principal).limit(2))).all()
        if len(own) == 1:
            return own[0]
    return await _one(session, Cloud, ref, within(session, Cloud.id))


async def own_cloud(session: AsyncSession, ref: Ref) -> Cloud:
    """The cloud, and until the transaction ends nobody else's: names and addresses in it can be given out."""
    found = await find_cloud(session, ref)
    cloud = await session.get(Cloud, found.id, with_for_update=LOCKED, populate_existing=True)
    if cloud is None:
        raise NotFound(f"cloud {found.name} was removed")
    return cloud


async def find_provider(session: AsyncSession, ref: Ref) -> Provider:
    return await _one(session, Provider, ref)


async def find_principal(session: AsyncSession, ref: Ref) -> Principal:
    """Itself only, unless an operator asks."""
    caller = caller_of(session)
    mine = true() if caller is None or caller.operator else Principal.id == caller.principal
    return await _one(session, Principal, ref, mine)


async def find_image(session: AsyncSession, ref: Ref) -> Image:
    if ref.startswith("sha256:"):
        image = await session.scalar(select(Image).where(Image.digest == ref, owned(session, Image.owner)))
        if image is None:
            raise NotFound(f"there is no image {ref}")
        return image
    return await _one(session, Image, ref, owned(session, Image.owner))


async def find_blanket(session: AsyncSession, ref: Ref, cloud: Ref | None) -> Blanket:
    return await _in_cloud(session, Blanket, ref, cloud)


async def find_network(session: AsyncSession, ref: Ref, cloud: Ref | None) -> Network:
    return await _in_cloud(session, Network, ref, cloud)


async def find_volume(session: AsyncSession, ref: Ref, cloud: Ref | None) -> Volume:
    return await _in_cloud(session, Volume, ref, cloud)


async def find_instance(session: AsyncSession, ref: Ref, cloud: Ref | None) -> Instance:
    return await _in_cloud(session, Instance, ref, cloud)
