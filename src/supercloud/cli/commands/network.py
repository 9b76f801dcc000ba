"""`supercloud network`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Cloud, Name, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one

app = App(name="network", help="Encrypted networks over all blankets of a cloud.")
_COLUMNS = ("name", "cloud", "cidr", "gateway", "vni", "instances")


@app.command
def create(name: Name, /, *, cloud: Name, cidr: str, output: Output = Format.TABLE) -> None:
    """Create a network.

    Example: supercloud network create web --cloud mine --cidr 10.20.0.0/24

    Args:
        name: What to call it.
        cloud: The cloud that it belongs to.
        cidr: A private IPv4 network of /16 to /28; its first address is the gateway.
    """
    network = connect().post("/networks", {"name": name, "cloud": cloud, "cidr": cidr})
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
    """Show one.

    Example: supercloud network show web
    """
    print_one(f"/networks/{name}", output, cloud=cloud)


@app.command
def rm(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Remove one that no instance uses.

    Example: supercloud network rm web
    """
    connect().delete(f"/networks/{name}", cloud=cloud)
    said(f"network {name} removed", output, removed=name)
