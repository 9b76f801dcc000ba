"""What commands share: the options that many have, the client, and waiting for operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from supercloud.cli.output import Format, print_rows, print_thing, progress
from supercloud.client import Client, Place

Output = Annotated[Format, Parameter(name=["--output", "-o"], help="table or json")]
Cloud = Annotated[str | None, Parameter(name=["--cloud", "-c"], help="the cloud, where a name is in several")]
Wait = Annotated[bool, Parameter(name="--wait", negative="--no-wait", help="wait for the operation to end")]


def connect() -> Client:
    """The client of the control plane of this machine."""
    return Client(Place.default().access())


def ls(path: str, columns: Sequence[str], output: Format, **query: object) -> None:
    """Print a list."""
    print_rows(connect().get(path, **query), columns, output)


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
        return None
    with progress(title, quiet=output is Format.JSON) as watch:
        try:
            ended = client.wait(operation, watch)
        except KeyboardInterrupt:
            watch("cancelling", None)
            client = connect()  # the interrupted request's answer may still be on the old connection
            ended = client.wait(client.post(f"/operations/{operation['id']}/cancel"), watch)
    if output is Format.JSON:
        print_thing(ended, output)
    return ended


def said(text: str, output: Format) -> None:
    """A word for a person that it is done; JSON has its own."""
    if output is Format.TABLE:
        print(text)
