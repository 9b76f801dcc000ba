"""`supercloud operation`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from supercloud.cli.output import Format
from supercloud.cli.session import Name, OptionalName, Output, connect, finish, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.model.states import OperationState

app = App(name="operation", help="What is being done, and what was.")
_COLUMNS = ("id", "kind", "object_name", "state", "phase", "created_at")


@app.command
def ls(
    *,
    open_only: Annotated[
        bool, Parameter(name="--open", negative="", help="only those that have not ended")
    ] = False,
    cloud: Annotated[
        OptionalName, Parameter(name=["--cloud", "-c"], help="only what is in this cloud")
    ] = None,
    state: Annotated[OperationState | None, Parameter(help="only in this state")] = None,
    kind: Annotated[str | None, Parameter(help="only of this kind, e.g. instance.migrate")] = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000), help="the newest so many")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List operations, the newest first.

    Example: supercloud operation ls --open

    Example: supercloud operation ls --cloud mine --state failed
    """
    asked = {"cloud": cloud, "state": state, "kind": kind, "limit": limit}
    print_list("/operations", _COLUMNS, output, open_only=str(open_only).lower(), **asked)


@app.command
def show(operation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one: its phase, its result, or why it failed.

    Example: supercloud operation show 0b1f2a3c-1111-4222-8333-444455556666
    """
    print_one(f"/operations/{operation}", output)


@app.command
def wait(operation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Follow one to its end; the exit status is the operation's.

    Example: supercloud operation wait 0b1f2a3c-1111-4222-8333-444455556666
    """
    client = connect()
    seen = client.get(f"/operations/{operation}")
    if finish(client, seen, f"{seen['kind']} of {seen['object_name']}", output):
        said(f"{seen['kind']} of {seen['object_name']} succeeded", output)


@app.command
def cancel(operation: Name, /, *, output: Output = Format.TABLE) -> None:
    """Ask for one to be given up, where it still can be.

    Example: supercloud operation cancel 0b1f2a3c-1111-4222-8333-444455556666
    """
    client = connect()
    finish(client, client.post(f"/operations/{operation}/cancel"), "cancelling", output)
