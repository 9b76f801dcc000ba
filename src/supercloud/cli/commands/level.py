"""`supercloud level`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from supercloud.cli.bounds import Level
from supercloud.cli.output import Format, print_json, print_rows
from supercloud.cli.session import Cloud, Name, Output, connect, said

app = App(name="level", help="Security levels: what each means, and who can give it.")
_PATHS = {"vm": "instances", "network": "networks", "volume": "volumes"}
_TABLE = ("place", "of", "rule", "held", "by")


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List the levels, from the lowest to the highest; each means what those before it mean as well.

    Example: supercloud level ls
    """
    from supercloud.model.levels import RULES

    rows = [
        {
            "level": rule.since.value,
            "rule": rule.name,
            "of": sorted(thing.value for thing in rule.of),
            "says": rule.says,
            "by": [one.name for one in rule.by],
        }
        for rule in RULES
    ]
    print_rows(rows, ("level", "rule", "of", "says"), output)


@app.command
def explain(
    kind: Literal["vm", "network", "volume"],
    name: Name,
    /,
    *,
    level: Annotated[Level | None, Parameter(help="as if it had this one")] = None,
    cloud: Cloud = None,
    output: Output = Format.TABLE,
) -> None:
    """Show each rule that a level means, and by what each blanket of the cloud holds it, or why it does not.

    Of an instance, with what its networks and volumes demand. A place in brackets is a provider without a
    blanket of the cloud: what the best one that can be added there could give.

    Example: supercloud level explain vm web

    Example: supercloud level explain network lan --level isolated -o json

    Args:
        kind: What it is.
        name: What it is called.
    """
    found = connect().get(f"/{_PATHS[kind]}/{name}/level", level=level, cloud=cloud)
    if output is Format.JSON:
        print_json(found)
        return
    print_rows([row for place in found["places"] for row in _rows(place)], _TABLE, output)
    for place in found["places"]:
        at = _place(place) + (", where it is," if place["here"] else "")
        said(f"{at} can hold all of it" if place["allowed"] else f"{at} cannot: {place['why']}", output)
    if found["left_out"]:
        said(f"and {found['left_out']} places more", output)


def _rows(place: dict[str, Any]) -> list[dict[str, Any]]:
    where = _place(place)
    return [
        {**rule, "place": where, "by": rule["by"] or f"not given: {rule['why']}"} for rule in place["rules"]
    ]


def _place(place: dict[str, Any]) -> str:
    """A blanket and its domain, or the domain alone."""
    return f"{place['blanket']} in {place['provider']}" if place["blanket"] else f"[{place['provider']}]"
