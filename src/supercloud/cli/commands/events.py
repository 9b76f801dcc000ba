"""`supercloud events`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from supercloud.cli.output import Format, print_rows, printable
from supercloud.cli.session import Cloud, OptionalName, Output, connect
from supercloud.model.errors import InvalidInput
from supercloud.model.kinds import Kind

_COLUMNS = ("received_at", "cloud", "blanket", "kind", "data")


def events(
    *,
    cloud: Cloud = None,
    kind: Annotated[list[Kind] | None, Parameter(help="only of these kinds; may be repeated")] = None,
    since: Annotated[str | None, Parameter(help="the id of an event: tell what came after it first")] = None,
    past: Annotated[
        bool, Parameter(negative="", help="what agents reported before, instead of what happens now")
    ] = False,
    blanket: OptionalName = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=1000), help="the newest so many")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """Follow what changes, as it does, until Ctrl-C. With -o json: an object on each line.

    What you may not see is not told. The control plane keeps the last ten thousand changes for who comes back
    with --since; where more happened it says `lost`, and what you need has to be listed again.

    Example: supercloud events --cloud mine --kind instance --kind operation

    Example: supercloud events -o json --since 3f9c2d7a10b4e865-42

    Example: supercloud events --past --blanket north --limit 20

    Args:
        blanket: with --past: what this one's agent reported.
    """
    if past:
        if kind or since:
            raise InvalidInput("--kind and --since are for what happens now, not for --past")
        rows = connect().get("/reports", cloud=cloud, blanket=blanket, limit=limit)
        print_rows(rows, _COLUMNS, output)
        return
    if blanket is not None:
        raise InvalidInput("--blanket needs --past")
    query: dict[str, object] = {"cloud": cloud, "kind": [str(one) for one in kind] if kind else None}
    for said in connect().events(since=since, **query):
        if output is Format.JSON:
            sys.stdout.write(json.dumps({"event": said.name, "id": said.id, **said.data}) + "\n")
        elif said.name == "change":
            sys.stdout.write(printable(_line(said.data)) + "\n")
        elif said.name == "lost":
            sys.stderr.write(printable(f"lost: {said.data.get('detail')}; list again") + "\n")
        sys.stdout.flush()


def _line(change: Mapping[str, Any]) -> str:
    """For a person: when, what, of which cloud, how it is now."""
    moment = datetime.fromtimestamp(change["at"]).astimezone().isoformat(sep=" ", timespec="seconds")
    where = f" in {change['cloud_name']}" if change["cloud_name"] and change["kind"] != "cloud" else ""
    return f"{moment}  {change['kind']} {change['name']}{where} {change['act']}{_now(change)}"


def _now(change: Mapping[str, Any]) -> str:
    data = change["data"] or {}
    if change["kind"] == "operation":
        done = f" {data['done']:.0%}" if data.get("done") is not None else ""
        return f": {data.get('kind')} {change['state']} {data.get('phase') or ''}{done}".rstrip()
    if change["kind"] == "report":
        return f": {json.dumps(data.get('data'))}"
    return f": {change['state']}" if change["state"] else ""
