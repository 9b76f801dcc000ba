"""`supercloud volume`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import Cloud, Output, Wait, connect, finish, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.cli.sizes import Size

app = App(name="volume", help="Encrypted disks.")
_COLUMNS = ("name", "cloud", "size_bytes", "instance", "blanket", "snapshots")


@app.command
def create(
    name: str,
    /,
    *,
    cloud: str,
    size: Size,
    on: str | None = None,
    image: str | None = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a volume.

    Example: supercloud volume create data --cloud mine --size 10G
    """
    body = {"name": name, "cloud": cloud, "size_bytes": size, "on": on, "image": image}
    volume = connect().post("/volumes", body)
    if output is Format.JSON:
        print_thing(volume, output)
    said(f"volume {name} created", output)


@app.command
def ls(*, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List volumes."""
    print_list("/volumes", _COLUMNS, output, cloud=cloud)


@app.command
def show(name: str, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one."""
    print_one(f"/volumes/{name}", output, cloud=cloud)


@app.command
def attach(
    name: str, instance: str, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Attach a volume to an instance, running or not.

    Example: supercloud volume attach data web
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/attach", {"instance": instance}, cloud=cloud)
    finish(client, operation, f"attaching {name}", output, wait=wait)


@app.command
def detach(name: str, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Detach a volume from its instance."""
    client = connect()
    operation = client.post(f"/volumes/{name}/detach", cloud=cloud)
    finish(client, operation, f"detaching {name}", output, wait=wait)


@app.command
def resize(
    name: str, size: Size, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Grow a volume, in use or not.

    Example: supercloud volume resize data 20G
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/resize", {"size_bytes": size}, cloud=cloud)
    finish(client, operation, f"resizing {name}", output, wait=wait)


@app.command
def snapshot(
    name: str, snapshot: str, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Keep what is on the volume now under a name."""
    client = connect()
    operation = client.post(f"/volumes/{name}/snapshot", {"snapshot": snapshot}, cloud=cloud)
    finish(client, operation, f"snapshot of {name}", output, wait=wait)


@app.command
def rm(name: str, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Delete a volume that is attached nowhere, and its keys for good."""
    client = connect()
    finish(client, client.delete(f"/volumes/{name}", cloud=cloud), f"removing {name}", output, wait=wait)
