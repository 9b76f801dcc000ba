"""Instances as they are shown: three queries, however many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    Text,
    bindparam,
    cast,
    literal,
    select,
    true,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.levels import Level
from supercloud.model.names import Id
from supercloud.model.placement import ANYWHERE, Placement
from supercloud.model.states import InstanceState
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.publish import HOST
from supercloud.services.refs import named, the_one
from supercloud.services.requests import Ref
from supercloud.services.store.rights import SqlRights
from supercloud.services.store.tables import (
    Blanket,
    Cloud,
    Image,
    Instance,
    Network,
    NicRow,
    Published,
    Right,
    Volume,
)
from supercloud.services.views import InstanceView
from supercloud.wire.codec import from_json

#: Columns, not objects: a thousand of them are listed in one answer.
_SHOWN = (
    select(
        Instance.id,
        Instance.name,
        Instance.cloud.label("in_cloud"),
        Instance.state,
        Instance.hold,
        Instance.vcpus,
        Instance.memory_mib,
        Instance.group,
        Instance.placement,
        Instance.placed,
        Instance.level,
        Instance.blanket.label("at"),
        Instance.reason,
        Instance.created_at,
        Cloud.name.label("cloud"),
        Blanket.name.label("blanket"),
        Image.name.label("image"),
        Right.epoch,
        Right.holder,
        Right.expires_at,
    )
    .join(Cloud, Cloud.id == Instance.cloud)
    .join(Image, Image.id == Instance.image)
    .join(Right, Right.instance == Instance.id)
    .outerjoin(Blanket, Blanket.id == Instance.blanket)
)

#: What one instance has of each kind, in order: rows of up to three texts.
_Parts = dict[str, list[tuple[str, str, str]]]


def _parts_where(
    nics: ColumnElement[bool], volumes: ColumnElement[bool], ports: ColumnElement[bool]
) -> Select[*tuple[Any, ...]]:
    """Rows of instance, kind, place and three texts: a NIC's MAC, IP and network; a volume's name; a port
    that is published, outside and inside."""
    nothing = literal("")
    rows = union_all(
        select(
            NicRow.instance.label("instance"),
            literal("nic").label("kind"),
            NicRow.position.label("place"),
            NicRow.mac,
            NicRow.ip,
            Network.name,
        )
        .join(Network, Network.id == NicRow.network)
        .where(nics),
        select(Volume.instance, literal("volume"), Volume.position, Volume.name, nothing, nothing).where(
            Volume.instance.is_not(None), volumes
        ),
        select(
            Published.instance,
            literal("port"),
            Published.at,
            cast(Published.at, Text),
            cast(Published.port, Text),
            nothing,
        ).where(ports),
    ).subquery()
    return select(rows).order_by(rows.c.place)


#: Made once: putting a statement together takes longer than SQLite takes to carry it out.
_ONE = _SHOWN.where(named(Instance, bindparam("ref"))).limit(2)
_ONE_WITHIN = _ONE.where(Instance.cloud.in_(bindparam("clouds", expanding=True)))
_WHOSE_PARTS = (NicRow.instance, Volume.instance, Published.instance)
_PARTS_OF_ONE = _parts_where(*(column == bindparam("instance") for column in _WHOSE_PARTS))
_SOME: BindParameter[list[str]] = bindparam("instances", expanding=True)
_PARTS_OF_SOME = _parts_where(*(column.in_(_SOME) for column in _WHOSE_PARTS))


async def views(
    session: AsyncSession,
    rights: SqlRights,
    *,
    clouds: tuple[Id, ...] | None = None,
    only: Sequence[ColumnElement[bool]] = (),
    page: Page = EVERYTHING,
) -> Part[InstanceView]:
    """These clouds', or all, by cloud (its id) and name."""
    picks = (*only, *page.picks(Instance.name, Instance.state))
    query = _SHOWN.where(_in(Instance.cloud, clouds), *picks)
    rows = (await session.execute(page.of(query, Instance.cloud, Instance.name))).all()
    if page == EVERYTHING:
        of = [_in(column, clouds) for column in (NicRow.cloud, Volume.cloud, Published.cloud)]
        found = await session.execute(_parts_where(*of))
    else:
        found = await session.execute(_PARTS_OF_SOME, {"instances": [row.id for row in rows]})
    parts = _grouped(found.all())
    now = await rights.now(session)
    return page.part(rows, lambda row: (row.in_cloud, row.name), lambda row: _view(row, parts[row.id], now))


async def view(
    session: AsyncSession, rights: SqlRights, ref: Ref, *, clouds: tuple[Id, ...] | None = None
) -> InstanceView:
    """
    Raises:
        NotFound; Conflict where the name means several.
    """
    query, given = (_ONE, {"ref": ref}) if clouds is None else (_ONE_WITHIN, {"ref": ref, "clouds": clouds})
    found = (await session.execute(query, given)).all()
    row = the_one(found, "instance", ref)
    parts = _grouped((await session.execute(_PARTS_OF_ONE, {"instance": row.id})).all())
    return _view(row, parts[row.id], await rights.now(session))


def _in(column: Any, clouds: tuple[Id, ...] | None) -> ColumnElement[bool]:
    return true() if clouds is None else column.in_(clouds)


def _grouped(rows: Sequence[Any]) -> defaultdict[Id, _Parts]:
    found: defaultdict[Id, _Parts] = defaultdict(lambda: {"nic": [], "volume": [], "port": []})
    for instance, kind, _, first, second, third in rows:
        found[instance][kind].append((first, second, third))
    return found


def placed_of(why: dict[str, str] | None, blanket: Id | None) -> str:
    """Why it is there, or is about to come there."""
    if blanket is None:
        return next(reversed((why or {}).values()), "")
    return (why or {}).get(blanket, "")


def _view(row: Any, parts: _Parts, now: float) -> InstanceView:
    nics = parts["nic"]
    return InstanceView(
        id=row.id,
        name=row.name,
        cloud=row.cloud,
        cloud_id=row.in_cloud,
        state=InstanceState(row.state),
        blanket=row.blanket,
        blanket_id=row.at,
        epoch=row.epoch,
        right_left_s=max(0.0, row.expires_at - now) if row.holder else None,
        hold=row.hold,
        vcpus=row.vcpus,
        memory_mib=row.memory_mib,
        image=row.image,
        addresses=tuple(ip for _, ip, _ in nics),
        macs=tuple(mac for mac, _, _ in nics),
        networks=tuple(network for _, _, network in nics),
        volumes=tuple(name for name, _, _ in parts["volume"]),
        published=tuple(f"{HOST}:{at}->{port}" for at, port, _ in parts["port"]),
        group=row.group,
        placement=ANYWHERE if row.placement is None else from_json(Placement, row.placement),
        placed=placed_of(row.placed, row.at),
        level=Level(row.level),
        reason=row.reason,
        created_at=row.created_at,
    )
