"""`supercloud finding`."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_json, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, OptionalName, Output, connect
from supercloud.cli.times import seconds
from supercloud.model.findings import Layer, Severity

app = App(name="finding", help="What detectors saw, from the platform upwards.")
_COLUMNS = ("id", "received_at", "layer", "severity", "domain", "object_kind", "object_name", "rule", "title")


@app.command
def ls(
    *,
    cloud: Cloud = None,
    provider: OptionalName = None,
    layer: Annotated[Layer | None, Parameter(help="only of this layer")] = None,
    severity: Annotated[Severity | None, Parameter(help="only so grave ones, and graver ones")] = None,
    since: Annotated[str | None, Parameter(help="only of the last so long, as 2h or 7d")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List what was found about your clouds, and about those that trust yours with it; the newest first.

    Titles and rules are the detector's own words. `supercloud events --kind finding` follows them.

    Example: supercloud finding ls --cloud mine --severity high --since 7d

    Args:
        provider: Only of this domain.
    """
    query = {"cloud": cloud, "domain": provider, "layer": layer, "severity": severity}
    if since is not None:
        query["since"] = str(time.time() - seconds(since))
    print_rows(connect().all("/findings", **query), _COLUMNS, output)


@app.command
def show(
    finding: Name,
    /,
    *,
    ocsf: Annotated[bool, Parameter(help="the event as it came (OCSF), as JSON")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Show one, with its evidence.

    Example: supercloud finding show 7c9e6679-7425-40de-944b-e07fc1f90ae7 --ocsf

    Args:
        finding: Its id.
    """
    client = connect()
    if ocsf:
        print_json(client.get(f"/findings/{finding}", **{"as": "ocsf"}))
        return
    print_thing(client.get(f"/findings/{finding}"), output)
