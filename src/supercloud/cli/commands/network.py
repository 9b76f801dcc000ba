"""`supercloud network`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Cloud, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one

app = App(name="network", help="Encrypted networks over all blankets of a cloud.")
_COLUMNS = ("name", "cloud", "cidr", "gateway", "vni", "instances")


@app.command
def create(name: str, /, *, cloud: str, cidr: str, output: Output = Format.TABLE) -> None:
    """Create a network.

    Example: supercloud network create web --cloud mine --cidr 10.20.0.0/24
    """
    network = connect().post("/networks", {"name": name, "cloud": cloud, "cidr": cidr})
    if output is Format.JSON:
        print_thing(network, output)
    said(f"network {name} created; its gateway is {network['gateway']}", output)


@app.command
def ls(*, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List networks."""
    print_list("/networks", _COLUMNS, output, cloud=cloud)


@app.command
def show(name: str, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one."""
    print_one(f"/networks/{name}", output, cloud=cloud)


@app.command
def rm(name: str, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Remove one that no instance uses."""
    connect().delete(f"/networks/{name}", cloud=cloud)
    said(f"network {name} removed", output)
