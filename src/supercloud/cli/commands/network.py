"""`supercloud network`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.bounds import Level, Lower, OptionalLevel
from supercloud.cli.bounds import set_level as change_level
from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.times import moment

app = App(name="network", help="Encrypted networks over all blankets of a cloud.")
_CIDR = re.compile(r"(\d{1,3}\.){3}\d{1,3}/\d{1,2}")
_COLUMNS = ("name", "cloud", "cidr", "gateway", "vni", "level", "instances")


def _check_cidr(_: Any, value: str) -> None:
    if not _CIDR.fullmatch(value):
        raise ValueError(f"{value!r} is no IPv4 network such as 10.20.0.0/24")


@app.command
def create(
    name: Name,
    /,
    *,
    cloud: Name,
    cidr: Annotated[str, Parameter(validator=_check_cidr)],
    level: OptionalLevel = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a network.

    Example: supercloud network create web --cloud mine --cidr 10.20.0.0/24

    Args:
        name: What to call it.
        cloud: The cloud that it belongs to.
        cidr: A private IPv4 network of /16 to /28; its first address is the gateway.
    """
    network = connect().post("/networks", {"name": name, "cloud": cloud, "cidr": cidr, "level": level})
    if output is Format.JSON:
        print_thing(network, output)
    said(f"network {name} created; its gateway is {network['gateway']}", output)


@app.command
def ls(*, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List networks.

    Example: supercloud network ls --cloud mine
    """
    print_list("/networks", _COLUMNS, output, cloud=cloud)


@app.command
def show(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one, and the other clouds' networks that it is connected with (supercloud trust).

    Example: supercloud network show web
    """
    found = connect().get(f"/networks/{name}", cloud=cloud)
    if output is Format.TABLE:
        found |= {"links": [_in_words(link) for link in found["links"]]}
    print_thing(found, output)


@app.command
def set_level(
    name: Name,
    level: Level,
    /,
    *,
    lower: Lower = False,
    cloud: Cloud = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a network another security level. Instances that have to move because of it are named.

    Example: supercloud network set-level lan hardened

    Args:
        level: From now on.
    """
    change_level("networks", name, level, lower=lower, cloud=cloud, output=output)


@app.command
def rm(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Remove one that no instance uses.

    Example: supercloud network rm web
    """
    connect().delete(f"/networks/{name}", cloud=cloud)
    said(f"network {name} removed", output, removed=name)


# ---------------------------------------------------------------- inside


def _in_words(link: Mapping[str, Any]) -> str:
    way = "reached from" if link["inward"] else "reaches"
    terms = f"closed: {link['closed']}" if link["closed"] else f"until {moment(link['expires_at'])}"
    return f"{way} {link['cloud']}/{link['network']} ({link['cidr']}), {terms}"
