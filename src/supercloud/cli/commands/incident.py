"""`supercloud incident`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.commands.evidence import app as evidence
from supercloud.cli.output import Format, print_json, print_rows, print_thing, printable
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.model.incidents import ExportFormat, IncidentState

app = App(name="incident", help="What was found together, what was done about it, and whether it worked.")
app.command(evidence)
_COLUMNS = ("id", "opened_at", "state", "severity", "cloud", "blanket", "findings", "title")
_REACTIONS = ("id", "state", "policy", "reaction", "about", "why")
_ORDERS = ("reaction", "blanket", "there", "doing", "problem", "until")
_SEEN = ("layer", "rule", "object_kind", "object_name", "many", "first", "last")


@app.command
def ls(
    *,
    cloud: Cloud = None,
    state: Annotated[IncidentState | None, Parameter(help="only in this state")] = None,
    open_only: Annotated[
        bool, Parameter(name="--open", negative="", help="only those that are not closed")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """List incidents of your blankets, and those over several of them; the newest first.

    Example: supercloud incident ls --state escalated

    Example: supercloud incident ls --open
    """
    found = connect().all("/incidents", cloud=cloud, state=state, open_only=open_only or None)
    print_rows(found, _COLUMNS, output)


@app.command
def show(incident: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one: its timeline over the layers, from the first finding to the proof.

    Example: supercloud incident show 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        incident: Its id.
    """
    found = connect().get(f"/incidents/{incident}")
    if output is Format.JSON:
        print_thing(found, output)
        return
    print_thing(found["incident"], output)
    sys.stdout.write("\n")
    for number, entry in enumerate(found["timeline"]):
        if found["left_out"] and number == len(found["timeline"]) // 2:
            sys.stdout.write(f"  ({found['left_out']} lines were not kept)\n")
        sys.stdout.write(f"{printable(_line(entry))}\n")


@app.command
def explain(incident: Name, /, *, output: Output = Format.TABLE) -> None:
    """Say of one what was seen, and of each reaction by which policy and why, or why not.

    Example: supercloud incident explain 7c9e6679-7425-40de-944b-e07fc1f90ae7

    Args:
        incident: Its id.
    """
    found = connect().get(f"/incidents/{incident}")
    if output is Format.JSON:
        print_thing({part: found[part] for part in ("seen", "reactions", "orders")}, output)
        return
    print_rows(found["seen"], _SEEN, output)
    sys.stdout.write("\n")
    print_rows(found["reactions"], _REACTIONS, output)
    if found["orders"]:
        sys.stdout.write("\n")
        print_rows(found["orders"], _ORDERS, output)
    for one in {row["reaction"]: row["meaning"] for row in found["reactions"]}.items():
        sys.stdout.write(f"\n{one[0]}: {one[1]}\n")


@app.command
def export(
    incident: Name,
    /,
    *,
    as_: Annotated[
        ExportFormat, Parameter(name="--format", help="stix: a bundle of indicators; ocsf: an event")
    ] = ExportFormat.STIX,
) -> None:
    """Print one in others' formats, as JSON: ids, addresses, rules and times, and nobody's names.

    Example: supercloud incident export 7c9e6679-7425-40de-944b-e07fc1f90ae7 --format stix > bundle.json

    Args:
        incident: Its id.
    """
    print_json(connect().get(f"/incidents/{incident}/export", format=as_.value))


@app.command
def close(
    incident: Name,
    /,
    *,
    undo: Annotated[bool, Parameter(help="undo what is in force because of it")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Close one. What was done ends when its time is over, or now with --undo.

    Example: supercloud incident close 7c9e6679-7425-40de-944b-e07fc1f90ae7 --undo

    Args:
        incident: Its id.
    """
    found = connect().post(f"/incidents/{incident}/close", {"undo": undo})
    if output is Format.JSON:
        print_thing(found, output)
    horizontal = found["incident"]["horizontal"]
    said(
        f"incident {incident} {'is closed' if horizontal else 'is closed as soon as its blanket says so'}",
        output,
    )


@app.command
def allow(incident: Name, reaction: Name, /, *, output: Output = Format.TABLE) -> None:
    r"""Allow a reaction that asks first (mode ask).

    Example: supercloud incident allow 7c9e6679-7425-40de-944b-e07fc1f90ae7 \
        16fd2706-8baf-433b-82eb-8c7fada847da

    Args:
        incident: Its id.
        reaction: Its id, as explain shows it.
    """
    _answer(incident, reaction, yes=True, output=output)


@app.command
def refuse(incident: Name, reaction: Name, /, *, output: Output = Format.TABLE) -> None:
    r"""Refuse a reaction that asks first (mode ask).

    Example: supercloud incident refuse 7c9e6679-7425-40de-944b-e07fc1f90ae7 \
        16fd2706-8baf-433b-82eb-8c7fada847da

    Args:
        incident: Its id.
        reaction: Its id, as explain shows it.
    """
    _answer(incident, reaction, yes=False, output=output)


def _answer(incident: str, reaction: str, *, yes: bool, output: Format) -> None:
    found = connect().post(f"/incidents/{incident}/reactions/{reaction}/answer", {"yes": yes})
    if output is Format.JSON:
        print_thing(found, output)
    said(f"reaction {reaction}: {'allowed' if yes else 'refused'}", output)


def _line(entry: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(entry["at"], UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"  {at}  {entry['layer'] or '  '}  {entry['kind']:<8}  {entry['says']}"
