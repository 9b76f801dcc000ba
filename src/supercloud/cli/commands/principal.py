"""`supercloud principal`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Name, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one

app = App(name="principal", help="Who may use this control plane: people and programs, by their keys.")
_COLUMNS = ("name", "roles", "clouds", "key")
Key = Annotated[str, Parameter(help="its public part, as supercloud key show prints it")]


@app.command
def add(
    name: Name,
    /,
    *,
    key: Key,
    operator: Annotated[bool, Parameter(negative="", help="it administers this control plane too")] = False,
    provider: Annotated[
        bool, Parameter(negative="", help="it has domains (supercloud domain) instead of clouds")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Let somebody have clouds here. What they need besides is a token: supercloud token mint --for NAME.

    Example: supercloud principal add alice --key ed25519/b0b…

    Args:
        name: What to call it.
    """
    added = connect().post(
        "/principals", {"name": name, "key": key, "operator": operator, "provider": provider}
    )
    if output is Format.JSON:
        print_thing(added, output)
    said(f"principal {name} added; supercloud token mint --for {name} makes a token for it", output)


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List principals: all of them for operators, yourself for others.

    Example: supercloud principal ls
    """
    print_list("/principals", _COLUMNS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one.

    Example: supercloud principal show alice
    """
    print_one(f"/principals/{name}", output)


@app.command
def rekey(name: Name, /, *, key: Key, output: Output = Format.TABLE) -> None:
    """Give one another key, when its own is lost or stolen. Tokens for the former key count no more.

    Example: supercloud principal rekey alice --key ed25519/ca7…
    """
    changed = connect().put(f"/principals/{name}/key", {"key": key})
    if output is Format.JSON:
        print_thing(changed, output)
    said(f"principal {name} has another key; supercloud token mint --for {name} makes a token for it", output)


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that owns nothing any more.

    Example: supercloud principal rm alice
    """
    connect().delete(f"/principals/{name}")
    said(f"principal {name} removed", output, removed=name)
