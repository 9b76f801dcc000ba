"""`supercloud order`."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, Output, ReactionName, connect, said
from supercloud.cli.session import show as print_one
from supercloud.cli.times import seconds
from supercloud.model.errors import InvalidInput
from supercloud.model.orders import MEANINGS, OrderState, Protocol, Reaction

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
    target: dict[str, Any] = {"device": {}}
    if reaction.target == "ipv4_net":
        target = {"ipv4_net": net}
    elif reaction.target == "ipv4_connection":
        target = {"ipv4_connection": _connection(protocol, source, to)}
    if (net is None) == (reaction.target == "ipv4_net"):
        raise InvalidInput(f"{reaction} {'needs' if net is None else 'takes no'} --net")
    args = {} if lasts is None else {"duration": int(seconds(lasts) * 1000)}
    body = {
        "blanket": blanket,
        "cloud": cloud,
        "command": {"action": reaction.action, "target": target, "args": args},
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


def _connection(protocol: Protocol | None, source: str | None, to: str | None) -> dict[str, Any]:
    """As OpenC2 has it.

    Raises:
        InvalidInput.
    """
    found: dict[str, Any] = {} if protocol is None else {"protocol": protocol}
    for end, text in (("src", source), ("dst", to)):
        if text is None:
            continue
        address, colon, port = text.partition(":")
        found[f"{end}_addr"] = address
        if colon:
            if not (port.isascii() and port.isdigit() and len(port) <= 5):
                raise InvalidInput(f"{text!r} is not ADDRESS[:PORT]")
            found[f"{end}_port"] = int(port)
    return found
