"""`supercloud operation`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format
from supercloud.cli.session import Output, connect, finish
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one

app = App(name="operation", help="What is being done, and what was.")
_COLUMNS = ("id", "kind", "object_name", "state", "phase", "done")


@app.command
def ls(
    *,
    open_only: Annotated[bool, Parameter(name="--open", negative="")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List operations."""
    print_list("/operations", _COLUMNS, output, open_only=str(open_only).lower())


@app.command
def show(operation: str, /, *, output: Output = Format.TABLE) -> None:
    """Show one."""
    print_one(f"/operations/{operation}", output)


@app.command
def wait(operation: str, /, *, output: Output = Format.TABLE) -> None:
    """Follow one to its end."""
    client = connect()
    finish(client, client.get(f"/operations/{operation}"), operation, output)


@app.command
def cancel(operation: str, /, *, output: Output = Format.TABLE) -> None:
    """Ask for one to be given up, where it still can be."""
    client = connect()
    finish(client, client.post(f"/operations/{operation}/cancel"), "cancelling", output)
