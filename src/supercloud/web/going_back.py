"""Going back in the page: a volume's snapshots, and putting it, or an instance with the volume that it boots
from, back to one of them or to its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from supercloud.model.errors import Denied
from supercloud.model.names import Name
from supercloud.model.permissions import Permission
from supercloud.model.states import OperationState
from supercloud.services.northbound import Northbound
from supercloud.services.pages import Page
from supercloud.services.requests import Ref
from supercloud.services.views import InstanceView, OperationView, VolumeView
from supercloud.web import cells
from supercloud.web.ask import Ask
from supercloud.web.deed import Action
from supercloud.web.forms import Field, Form, checked, chosen, written
from supercloud.web.grid import href
from supercloud.web.kind import Section

_P = Permission
#: In a form, instead of a snapshot's name, none of which is so.
_IMAGE: Final = ":image"
_TAKEN = Page(limit=200)
_LOST = "What was written to it since is gone, for good; back to its image, its snapshots are gone, too."
_LOST_BY_INSTANCE = (
    "It ends as if its power was cut, and starts again where it was. What was written since to the volume "
    "that it boots from is gone, for good; back to the image, that volume's snapshots are gone, too."
)


async def snapshots(ask: Ask, view: VolumeView) -> Section:
    """Of a volume's page: which there are, and when each was taken, as far as that is known still."""
    taken: Sequence[OperationView] = await ask.some(
        _P.OPERATION_READ,
        lambda control: control.operations(about=view.id, kind="volume.snapshot", page=_TAKEN),
    )
    by_name: dict[str, OperationView] = {}
    for one in taken:  # the newest first: a name may have been used before
        if one.state is OperationState.SUCCEEDED and one.result is not None:
            by_name.setdefault(str(one.result.get("snapshot")), one)
    return Section(
        title="Snapshots",
        caption="Snapshots that it can go back to",
        columns=("Snapshot", "Taken", "By operation"),
        rows=[
            (cells.text(name), cells.moment(None if one is None else one.ended_at), _operation(one))
            for name, one in ((name, by_name.get(name)) for name in view.snapshots)
        ],
        nothing="It has none."
        if view.image is None
        else f"It has none: it can go back to image {view.image}.",
        note="They are where they were taken: none goes with an instance that moves."
        if view.snapshots
        else "",
    )


def _operation(one: OperationView | None) -> cells.Cell:
    return cells.NOTHING if one is None else cells.Cell(text=one.kind, href=href("operations", one.id))


async def _places(_ask: Ask, view: VolumeView) -> tuple[Field, ...]:
    return (_choice(view),)


async def _root_places(ask: Ask, view: InstanceView) -> tuple[Field, ...]:
    """Of the volume that an instance boots from, which is its first."""
    try:
        control = ask.under(_P.VOLUME_READ)
    except Denied:
        return (Field(name="snapshot", label="Back to snapshot", hint=f"or {_IMAGE}", required=True),)
    return (_choice(await control.volume(view.volumes[0], cloud=view.cloud_id)),)


def _choice(view: VolumeView) -> Field:
    """The newest snapshot first, and the image, by which most is lost, last."""
    places = [(name, f"snapshot {name}") for name in reversed(view.snapshots)]
    if view.image is not None:
        loses = f", without {', '.join(view.snapshots)}" if view.snapshots else ""
        places.append((_IMAGE, f"image {view.image}, as it began{loses}"))
    return chosen("snapshot", "Back to", places, required=True)


def _place(form: Form) -> Name | None:
    """A snapshot; None: its image. Nothing chosen is neither. Raises: InvalidInput."""
    said = written(form, "snapshot")
    if said == _IMAGE:
        return None
    snapshot: Name = checked(Name, said, "back to")
    return snapshot


async def _restore_volume(control: Northbound, ref: Ref, form: Form) -> object:
    return await control.restore_volume(ref, snapshot=_place(form))


async def _restore_instance(control: Northbound, ref: Ref, form: Form) -> object:
    return await control.restore_instance(ref, snapshot=_place(form))


def _goes_back(view: VolumeView) -> bool:
    return bool(view.snapshots) or view.image is not None


def _boots(view: InstanceView) -> bool:
    return bool(view.volumes) and view.blanket is not None


GOING_BACK_ACTIONS = (
    Action("volumes", "restore", "Restore", _P.VOLUME_WRITE, _restore_volume, when=_goes_back, fields=_places,
        loses=_LOST),
    Action("instances", "restore", "Restore", _P.VM_RUN, _restore_instance, when=_boots, fields=_root_places,
        loses=_LOST_BY_INSTANCE),
)  # fmt: skip
