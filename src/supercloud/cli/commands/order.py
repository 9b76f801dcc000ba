"""`supercloud order`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, Output, ReactionName, connect, said
from supercloud.cli.session import show as print_one
from supercloud.cli.times import seconds
from supercloud.model.orders import MEANINGS, OrderState, Protocol, Reaction, command_of

app = App(name="order", help="What only a provider can do to a machine of yours.")
_COLUMNS = ("id", "state", "reaction", "domain", "blanket", "created_at", "deadline", "reason")
_KINDS = ("order", "action", "target", "meaning")


@app.command
def place(
    blanket: Name,
    order: ReactionName,
    /,
    *,
    net: Annotated[str | None, Parameter(help="of ipv4_net: addresses, as 198.51.100.0/24")] = None,
    protocol: Annotated[Protocol | None, Parameter(help="of ipv4_connection")] = None,
    source: Annotated[
        str | None, Parameter(help="of ipv4_connection: ADDRESS[:PORT] that it comes from")
    ] = None,
    to: Annotated[str | None, Parameter(help="of ipv4_connection: ADDRESS[:PORT] that it goes to")] = None,
    lasts: Annotated[str | None, Parameter(help="take it back after so long, e.g. 2h")] = None,
    within: Annotated[str, Parameter(help="have it done within so long, or not at all")] = "1h",
    cloud: Cloud = None,
    output: Output = Format.TABLE,
) -> None:
    """Order something of the provider of a blanket's machine. `order kinds` says what each means.

    Example: supercloud order place north deny:ipv4_net --net 198.51.100.0/24 --lasts 2h

    Example: supercloud order place north restart:device --within 10m

    Args:
        blanket: Whose machine it is; another cloud's, which trusts one of yours with it, by its id.
        order: What to do.
    """
    reaction = Reaction(order)
    command = command_of(
        reaction,
        net=net,
        protocol=protocol,
        source=source,
        to=to,
        duration_s=None if lasts is None else seconds(lasts),
    )
    body = {
        "blanket": blanket,
        "cloud": cloud,
        "command": command,
        "lasts_s": seconds(within),
    }
    made = connect().post("/orders", body)
    if output is Format.JSON:
        print_thing(made, output)
    said(f"order {made['id']} is before provider {made['domain']}: {made['meaning']}", output)


@app.command
def kinds(*, output: Output = Format.TABLE) -> None:
    """List what can be ordered, and what each means. Which of them a provider takes: `provider show`.

    Example: supercloud order kinds
    """
    rows = [
        {"order": one.value, "action": one.action, "target": one.target, "meaning": MEANINGS[one]}
        for one in Reaction
    ]
    print_rows(rows, _KINDS, output)


@app.command
def ls(
    *,
    cloud: Cloud = None,
    open_only: Annotated[bool, Parameter(name="--open", help="only those that have not ended")] = False,
    state: Annotated[OrderState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List orders about your machines, and those that your clouds asked for of others'; the newest first.

    Example: supercloud order ls --open
    """
    found = connect().all("/orders", cloud=cloud, open_only=open_only or None, state=state)
    print_rows(found, _COLUMNS, output)


@app.command
def show(order: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one, with the OpenC2 command and what its provider said.

    Example: supercloud order show 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        order: Its id.
    """
    print_one(f"/orders/{order}", output)


@app.command
def cancel(order: Name, /, *, output: Output = Format.TABLE) -> None:
    """Cancel one that its provider has not taken yet.

    Example: supercloud order cancel 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        order: Its id.
    """
    ended = connect().post(f"/orders/{order}/cancel")
    if output is Format.JSON:
        print_thing(ended, output)
    said(f"order {order} is {ended['state']}", output)
