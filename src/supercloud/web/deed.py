"""What a page lets somebody do: to a thing that is there, or so that a new one is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from supercloud.model.permissions import Permission
from supercloud.services.northbound import Northbound
from supercloud.services.requests import Ref
from supercloud.web.ask import Ask
from supercloud.web.forms import Field, Form

#: Of a thing as it is shown, or of the cloud that a new one is to be in.
Fields = Callable[[Ask, Any], Awaitable[tuple[Field, ...]]]


def fixed(*fields: Field) -> Fields:
    """The same for each."""

    async def same(_ask: Ask, _about: Any) -> tuple[Field, ...]:
        return fields

    return same


def always(_view: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Action:
    """`of`: the path of the kind of thing. `when`: whether it makes sense as the thing is; whether it may be
    done, the control plane decides when it is asked.

    What has `fields` to fill in, or says what somebody `loses` by it, has a page of its own: there what is
    lost is asked for again, by the thing's name.
    """

    of: str
    name: str
    title: str
    permission: Permission
    ask: Callable[[Northbound, Ref, Form], Awaitable[object]]
    when: Callable[[Any], bool] = always
    fields: Fields | None = None
    loses: str = ""
    grave: bool = False  # it takes something away from what runs

    @property
    def has_page(self) -> bool:
        return self.fields is not None or bool(self.loses)


@dataclass(frozen=True, slots=True)
class Making:
    """Of a new thing of the kind at path `of`. If it is to be in a cloud, that is chosen first: what else
    there is to choose is in it."""

    of: str
    title: str
    button: str
    permission: Permission
    ask: Callable[[Northbound, Form], Awaitable[Any]]
    fields: Fields
    in_cloud: bool = True
