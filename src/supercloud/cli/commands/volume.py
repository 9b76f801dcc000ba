"""`supercloud volume`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.bounds import Level, Lower, OptionalLevel
from supercloud.cli.bounds import set_level as change_level
from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import (
    Cloud,
    Name,
    OptionalImage,
    OptionalName,
    Output,
    ToImage,
    Wait,
    connect,
    finish,
    past_of,
    said,
)
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.cli.sizes import Size
from supercloud.model.units import format_size

app = App(name="volume", help="Encrypted disks.")
_COLUMNS = ("name", "cloud", "size_bytes", "level", "instance", "blanket", "snapshots")


@app.command
def create(
    name: Name,
    /,
    *,
    cloud: Name,
    size: Size,
    on: OptionalName = None,
    image: OptionalImage = None,
    level: OptionalLevel = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a volume.

    Example: supercloud volume create data --cloud mine --size 10G

    Args:
        name: What to call it.
        cloud: The cloud that it belongs to.
        size: What a guest sees; on disk it takes what was written.
        on: The blanket to make it in; by default where it is first attached.
        image: Begin as a copy of this image instead of empty; CLOUD/IMAGE is one that this cloud shares.
    """
    body = {"name": name, "cloud": cloud, "size_bytes": size, "on": on, "image": image, "level": level}
    volume = connect().post("/volumes", body)
    if output is Format.JSON:
        print_thing(volume, output)
    said(f"volume {name} created", output)


@app.command
def ls(*, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List volumes.

    Example: supercloud volume ls --cloud mine
    """
    print_list("/volumes", _COLUMNS, output, cloud=cloud)


@app.command
def show(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one: its size, who uses it, its snapshots.

    Example: supercloud volume show data
    """
    print_one(f"/volumes/{name}", output, cloud=cloud)


@app.command
def attach(
    name: Name, instance: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Attach a volume to an instance, running or not.

    Example: supercloud volume attach data web
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/attach", {"instance": instance}, cloud=cloud)
    if finish(client, operation, f"attaching {name}", output, wait=wait):
        said(f"volume {name} is attached to {instance}", output)


@app.command
def detach(name: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Detach a volume from its instance.

    Example: supercloud volume detach data
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/detach", cloud=cloud)
    if finish(client, operation, f"detaching {name}", output, wait=wait):
        said(f"volume {name} is detached", output)


@app.command
def resize(
    name: Name, size: Size, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Grow a volume, in use or not.

    Example: supercloud volume resize data 20G
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/resize", {"size_bytes": size}, cloud=cloud)
    if finish(client, operation, f"resizing {name}", output, wait=wait):
        said(f"volume {name} has {format_size(size)}", output)


@app.command
def snapshot(
    name: Name, snapshot: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Keep what is on the volume now under a name.

    Example: supercloud volume snapshot data before-upgrade
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/snapshot", {"snapshot": snapshot}, cloud=cloud)
    if finish(client, operation, f"snapshot of {name}", output, wait=wait):
        said(f"snapshot {snapshot} of volume {name} is kept", output)


@app.command
def restore(
    name: Name,
    /,
    *,
    snapshot: OptionalName = None,
    image: ToImage = False,
    cloud: Cloud = None,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Put a volume back to a snapshot, or to the image that it began with; what was written since is gone.

    A volume that goes back to its image loses its snapshots, too. An instance that uses it has to be
    stopped; for one that runs there is `vm restore`.

    Example: supercloud volume restore data --snapshot before-upgrade

    Args:
        snapshot: Which one.
    """
    past = past_of(snapshot, image=image)
    client = connect()
    operation = client.post(f"/volumes/{name}/restore", past, cloud=cloud)
    if finish(client, operation, f"restoring {name}", output, wait=wait):
        said(f"volume {name} is as it was", output)


@app.command
def backup(
    name: Name, /, *, to: Name, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Make an image of what is on the volume now, also while an instance writes to it.

    Then it is as it was at one moment, like after a power cut. `volume create --image` and `vm run --image`
    begin with what it holds, in this volume's cloud.

    Example: supercloud volume backup data --to data-monday

    Args:
        to: What to call the image.
    """
    client = connect()
    operation = client.post(f"/volumes/{name}/backup", {"image": to}, cloud=cloud)
    if finish(client, operation, f"backup of {name}", output, wait=wait):
        said(f"volume {name} is backed up to image {to}", output)


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
    """Give a volume another security level. Instances that have to move because of it are named.

    Example: supercloud volume set-level data hardened

    Args:
        level: From now on.
    """
    change_level("volumes", name, level, lower=lower, cloud=cloud, output=output)


@app.command
def rm(name: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Delete a volume that is attached nowhere, and its keys for good.

    Example: supercloud volume rm data
    """
    client = connect()
    operation = client.delete(f"/volumes/{name}", cloud=cloud)
    if finish(client, operation, f"removing {name}", output, wait=wait):
        said(f"volume {name} removed", output)
