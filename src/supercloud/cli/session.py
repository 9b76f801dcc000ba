"""What commands share: the options that many have, the client, and waiting for operations."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from supercloud.cli.output import Bar, Format, print_json, print_rows, print_thing, progress
from supercloud.client import NORTHBOUND, Place
from supercloud.model.errors import InvalidInput, SupercloudError, Unavailable

if TYPE_CHECKING:
    from supercloud.client import Client

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _check_name(_: Any, value: Any) -> None:
    """Here already, so that an odd name becomes part of no path and no other program's arguments."""
    for one in [value] if isinstance(value, str) else value or ():
        if not is_name(one):
            raise ValueError(f"{one!r} is not a name: up to 63 lower-case letters, digits and inner hyphens")


_IMAGE = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})?|sha256:[0-9a-f]{{64}}")


def _check_image(_: Any, value: Any) -> None:
    if value is not None and not _IMAGE.fullmatch(value):
        raise ValueError(f"{value!r} is not an image: IMAGE, CLOUD/IMAGE or sha256:DIGEST")


_NETWORK = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})?")


def _check_network(_: Any, value: Any) -> None:
    if value is not None and not _NETWORK.fullmatch(value):
        raise ValueError(f"{value!r} is not a network: NETWORK or CLOUD/NETWORK")


#: An image of one's own by its name, one that another cloud shares by both names, or any by its digest.
Image = Annotated[str, Parameter(validator=_check_image, metavar="[CLOUD/]IMAGE")]
OptionalImage = Annotated[str | None, Parameter(validator=_check_image, metavar="[CLOUD/]IMAGE")]
#: A network of one's own, or one that another cloud lets be reached by both names.
OptionalNetwork = Annotated[str | None, Parameter(validator=_check_network, metavar="[CLOUD/]NETWORK")]


def _check_reaction(_: Any, value: Any) -> None:
    from supercloud.model.orders import Reaction  # late: few commands have one, and it brings pydantic

    known = [one.value for one in Reaction]
    for one in [value] if isinstance(value, str) else value or ():
        if one not in known:
            raise ValueError(f"{one!r} is no order: one of {', '.join(known)}")


#: What can be ordered of a provider, as model.orders.Reaction has it.
ReactionName = Annotated[str, Parameter(validator=_check_reaction, metavar="ACTION:TARGET")]
Reactions = Annotated[list[str] | None, Parameter(validator=_check_reaction, metavar="ACTION:TARGET")]
#: A name (or the id) of something that exists, or the name that something gets.
Name = Annotated[str, Parameter(validator=_check_name)]
#: As `Name`, where it may be left out, or where there may be several.
OptionalName = Annotated[str | None, Parameter(validator=_check_name)]
Names = Annotated[list[str] | None, Parameter(validator=_check_name)]

Output = Annotated[Format, Parameter(name=["--output", "-o"], help="table or json")]
Cloud = Annotated[
    str | None,
    Parameter(
        name=["--cloud", "-c"], validator=_check_name, help="the cloud, where a name is in several of them"
    ),
]
ToImage = Annotated[bool, Parameter(negative="", help="to its image, as at its first start")]
Wait = Annotated[bool, Parameter(name="--wait", negative="--no-wait", help="wait for the operation to end")]

#: So many past operations of a kind say how long one takes.
_HISTORY = 9


def connect(base: str = NORTHBOUND) -> Client:
    """The client of the control plane of this machine, over one of its APIs."""
    from supercloud.client import Client  # late: a command that explains itself does not need it

    return Client(Place.default().access(), base=base)


def past_of(snapshot: str | None, *, image: bool) -> dict[str, str | None]:
    """To what something goes back, as the API is told: a snapshot, or (None) its image.

    Raises:
        InvalidInput: both are asked for, or neither.
    """
    if image == (snapshot is not None):
        raise InvalidInput("say to what it goes back", hint="with --snapshot NAME, or with --image")
    return {"snapshot": snapshot}


def ls(path: str, columns: Sequence[str], output: Format, **query: object) -> None:
    """Print all of a list, by cloud and name; with a `limit`, its first so many as they come."""
    if "limit" in query:
        rows = connect().get(path, **query)
    else:
        rows = connect().all(path, **query)
        if rows and {"cloud", "name"} <= rows[0].keys():
            rows.sort(key=lambda row: (row["cloud"], row["name"]))
    print_rows(rows, columns, output)


def show(path: str, output: Format, **query: object) -> None:
    """Print one thing."""
    print_thing(connect().get(path, **query), output)


def finish(
    client: Client, operation: Mapping[str, Any], title: str, output: Format, *, wait: bool = True
) -> dict[str, Any] | None:
    """Follow an operation, print how it ended (JSON: the operation), and return it.

    Ctrl-C asks for it to be cancelled and waits for that; a second one leaves it to itself.
    """
    if not wait:
        print_thing(operation, output)
        _say_how_to_follow(operation)
        return None
    try:
        with progress(title, quiet=output is Format.JSON, usual_s=usual_s(client, operation)) as bar:
            ended = _follow(client, operation, bar)
    except (KeyboardInterrupt, Unavailable):
        _say_how_to_follow(operation)
        raise
    if output is Format.JSON:
        print_thing(ended, output)
    return ended


def _follow(client: Client, operation: Mapping[str, Any], bar: Bar) -> dict[str, Any]:
    try:
        return client.wait(operation, bar)
    except KeyboardInterrupt:
        bar("cancelling", None)
        client = connect()  # the interrupted request's answer may still be on the old connection
        return client.wait(client.post(f"/operations/{operation['id']}/cancel"), bar)


def _say_how_to_follow(operation: Mapping[str, Any]) -> None:
    """It is durable: it goes on whoever watches."""
    identity = operation["id"]
    sys.stderr.write(
        f"it goes on by itself; supercloud operation wait {identity} follows it, "
        f"supercloud operation cancel {identity} gives it up\n"
    )


def usual_s(client: Client, operation: Mapping[str, Any]) -> float | None:
    """Seconds that operations of this kind took of late, to tell the time left by."""
    try:
        past = client.get("/operations", kind=operation["kind"], limit=_HISTORY)
    except SupercloudError:
        return None
    from statistics import median

    took = [one["ended_at"] - one["created_at"] for one in past if one["state"] == "succeeded"]
    return median(took) if took else None


def said(text: str, output: Format, **facts: object) -> None:
    """That it is done: a word for a person, or, where nothing else was printed, `facts` as JSON."""
    if output is Format.TABLE:
        print(text)
    elif facts:
        print_json(facts)
