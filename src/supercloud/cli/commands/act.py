"""`supercloud act`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.model.acts import ActState

app = App(name="act", help="Privileged acts that providers ask for. Nothing can grant one yet.")
_COLUMNS = ("id", "state", "operation", "domain", "blanket", "expires_at", "purpose")


@app.command
def ls(
    *,
    cloud: Cloud = None,
    state: Annotated[ActState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List what providers ask to do to your machines and what is in them; the newest first.

    Who says nothing has granted nothing: an act expires.

    Example: supercloud act ls --state asked
    """
    rows = connect().all("/acts", cloud=cloud, state=state)
    if output is Format.TABLE:
        rows = [{**row, **row["statement"]} for row in rows]
    print_rows(rows, _COLUMNS, output)


@app.command
def show(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one, with the statement that a consent would be signed under. Consents are not built yet.

    Example: supercloud act show 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    found = connect().get(f"/acts/{act}")
    if output is Format.TABLE:
        found |= found.pop("statement")
    print_thing(found, output)


@app.command
def refuse(act: Name, /, *, output: Output = Format.TABLE) -> None:
    """Refuse one. Its provider is told.

    Example: supercloud act refuse 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        act: Its id.
    """
    ended = connect().post(f"/acts/{act}/refuse")
    if output is Format.JSON:
        print_thing(ended, output)
    said(f"act {act} is {ended['state']}", output)
