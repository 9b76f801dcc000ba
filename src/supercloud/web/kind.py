"""What a kind of thing has, so that there are lists and pages of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from supercloud.api.pages import TIMED
from supercloud.model.kinds import Kind as Changed
from supercloud.model.permissions import Permission
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Page, Part
from supercloud.services.requests import Ref
from supercloud.web.ask import Ask
from supercloud.web.cells import Cell
from supercloud.web.gate import DOMAIN_EVENTS, EVENTS
from supercloud.web.grid import href

Facts = list[tuple[str, Cell]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table on a thing's page. `nothing` is said where it has no rows; `more`, that it has others; `note`,
    above it, what it is about."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    nothing: str
    more: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Beside:
    """Another page of a thing, at its path and `name`."""

    name: str
    title: str
    needs: Permission


def name_of(view: Any) -> str:
    """What a person calls it."""
    return str(view.name)


async def alone(_ask: Ask, _view: Any) -> list[Section]:
    """Nothing but its facts."""
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Of thing. `key`: the parts of its list's cursor. `watched`: what changes when a page of it does, and
    `stream` tells of it. `sections`: what is on its page besides."""

    path: str
    one: str
    title: str
    read: Permission
    key: tuple[type, ...]
    watched: tuple[Changed, ...]
    columns: tuple[str, ...]
    listed: Callable[[Northbound, Ref | None, Page], Awaitable[Part[Any]]]
    shown: Callable[[Northbound, Ref, Ref | None], Awaitable[Any]]
    row: Callable[[Any], tuple[Cell, ...]]
    facts: Callable[[Any], Facts]
    sections: Callable[[Ask, Any], Awaitable[list[Section]]] = alone
    called: Callable[[Any], str] = name_of
    beside: tuple[Beside, ...] = ()
    in_cloud: bool = True
    stream: str = EVENTS


#: Of what a provider sees: over the southbound API alone, and in no cloud.
DomainKind = partial(Kind, read=Permission.DOMAIN_READ, key=TIMED, in_cloud=False, stream=DOMAIN_EVENTS)


def named(collection: str, view: Any, name: str | None = None) -> Cell:
    """The first of a row."""
    return Cell(text=name or name_of(view), href=href(collection, view.id))
