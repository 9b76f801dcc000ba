"""`supercloud vm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from supercloud.cli.bounds import ANYWHERE, Level, Lower, OptionalLevel, PlacementOptions
from supercloud.cli.bounds import set_level as change_level
from supercloud.cli.moves import follow
from supercloud.cli.output import Format, print_thing
from supercloud.cli.session import (
    Cloud,
    Image,
    Name,
    Names,
    OptionalName,
    Output,
    ToImage,
    Wait,
    connect,
    finish,
    is_name,
    past_of,
    said,
)
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.cli.sizes import OptionalSize, Size
from supercloud.client import Place
from supercloud.model.errors import Failed, InvalidInput
from supercloud.model.states import InstanceState
from supercloud.model.units import MIB

app = App(name="vm", help="Instances: run, look, stop, migrate.")
_COLUMNS = ("name", "cloud", "state", "blanket", "level", "epoch", "right_left_s", "addresses", "published")
_FILE_BYTES = 64 << 10  # of user data, and of a public key


@app.command
def run(
    name: Name,
    /,
    *,
    cloud: Name,
    image: Image,
    on: OptionalName = None,
    memory: Size = 512 * MIB,
    vcpus: int = 1,
    disk: OptionalSize = None,
    network: Names = None,
    publish: Annotated[list[str] | None, Parameter(help="[PORT_HERE:]PORT of the instance")] = None,
    user_data: Annotated[
        Path | None,
        Parameter(help="cloud-init user data, up to 64 KiB; encrypted before it leaves this machine"),
    ] = None,
    ssh_key: Annotated[list[Path] | None, Parameter(help="public key files")] = None,
    hold: bool = False,
    level: OptionalLevel = None,
    where: PlacementOptions = ANYWHERE,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Run a new instance.

    Example: supercloud vm run web --cloud mine --image debian --on n1 --network web --publish 8080:80

    Example: supercloud vm run db --cloud mine --image debian --location de --max-cost "0.05 EUR"

    Args:
        name: What to call it; it answers to this name in its networks' DNS.
        cloud: The cloud that it belongs to.
        image: What it boots: an image of yours, or CLOUD/IMAGE, one that this cloud shares (trust ls).
        on: The blanket to start in; by default, of those where it may be, the one with the fewest instances.
        memory: Its memory.
        vcpus: Its virtual CPUs.
        disk: Size of its boot volume; by default the image's own.
        network: Its networks, in the order of its interfaces.
        hold: Run on while nobody can be reached; failing over then needs proof that the old copy is dead.
    """
    client = connect()
    operation = client.post(
        "/instances",
        {
            "name": name,
            "cloud": cloud,
            "image": image,
            "on": on,
            "memory_mib": memory // MIB,
            "vcpus": vcpus,
            "disk_bytes": disk,
            "networks": network or [],
            "publish": [_publish(text) for text in publish or []],
            "user_data": _sealed(user_data, name) if user_data else None,
            "ssh_keys": [_read(path).strip() for path in ssh_key or _default_keys()],
            "hold": hold,
            "level": level,
            **where.body(),
        },
    )
    if ended := finish(client, operation, f"instance {name}", output, wait=wait):
        result = ended["result"]
        said(f"instance {name} is running in {result['blanket_name']}: {result['placed']}", output)


@app.command
def adopt(
    vm: Annotated[str, Parameter(help="its name or its id, as supercloud blanket vms shows them")],
    /,
    *,
    blanket: Name,
    cloud: Name,
    name: OptionalName = None,
    on: OptionalName = None,
    network: Names = None,
    ssh_key: Annotated[list[Path] | None, Parameter(help="public key files")] = None,
    hold: bool = False,
    level: OptionalLevel = None,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Make an instance of a VM that tools of your own made in a blanket (see blanket connect).

    Of its one disk, its memory and its processors; it has to be shut off. Its disk becomes an image, its
    definition is removed, and the instance is run with the image. The disk's file stays in the blanket.

    Example: supercloud vm adopt old-server --blanket n1 --cloud mine --network web

    Args:
        blanket: Where it is.
        cloud: The blanket's.
        name: What to call the instance and the image; by default as the VM.
        on: The blanket to run it in; by default, of those where it may be, the one with the fewest instances.
        network: Its networks, in the order of its interfaces.
        hold: Run on while nobody can be reached; failing over then needs proof that the old copy is dead.
    """
    called = name or vm
    if not is_name(called):
        raise InvalidInput(f"{vm!r} is no name for an instance", hint="say another one with --name")
    client = connect()
    operation = client.post(
        "/instances/adopt",
        {
            "vm": vm,
            "blanket": blanket,
            "cloud": cloud,
            "name": called,
            "on": on,
            "networks": network or [],
            "ssh_keys": [_read(path).strip() for path in ssh_key or _default_keys()],
            "hold": hold,
            "level": level,
        },
    )
    if finish(client, operation, f"adopting {vm}", output, wait=wait):
        said(f"instance {called} is running", output)


def _publish(text: str) -> dict[str, int]:
    at, colon, port = text.rpartition(":")
    try:
        return {"port": int(port), "at": int(at) if colon else 0}
    except ValueError as error:
        raise InvalidInput(f"--publish {text!r} is not PORT or PORT_HERE:PORT") from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > _FILE_BYTES:
            raise InvalidInput(f"{path} has more than {_FILE_BYTES} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error


def _sealed(path: Path, instance: str) -> dict[str, Any]:
    """Its key stays with the owner's key store; the control plane sees neither key nor text."""
    from supercloud.keystore.userdata import seal_user_data

    return seal_user_data(Place.default().keystore_socket, _read(path).encode(), instance=instance)


def _default_keys() -> list[Path]:
    """As ssh itself would offer."""
    return [path for path in (Path.home() / ".ssh").glob("id_*.pub") if path.is_file()]


@app.command
def ls(
    *,
    cloud: Cloud = None,
    on: Annotated[OptionalName, Parameter(help="only what is in this blanket")] = None,
    group: Annotated[OptionalName, Parameter(help="only what is in this group")] = None,
    state: Annotated[InstanceState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List instances.

    Example: supercloud vm ls --cloud mine

    Example: supercloud vm ls --on n1 --state running
    """
    print_list("/instances", _COLUMNS, output, cloud=cloud, blanket=on, group=group, state=state)


@app.command
def show(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one: where it runs, its epoch, how long its right lasts.

    Example: supercloud vm show web -o json
    """
    print_one(f"/instances/{name}", output, cloud=cloud)


def _act(name: str, verb: str, *, cloud: str | None, wait: bool, output: Format, body: Any = None) -> None:
    client = connect()
    operation = client.post(f"/instances/{name}/{verb}", body, cloud=cloud)
    if finish(client, operation, f"{verb} {name}", output, wait=wait):
        said(f"{verb} {name}: done", output)


@app.command
def start(name: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Start a stopped instance.

    Example: supercloud vm start web
    """
    _act(name, "start", cloud=cloud, wait=wait, output=output)


@app.command
def stop(
    name: Name,
    /,
    *,
    cloud: Cloud = None,
    force: bool = False,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Shut an instance down.

    Example: supercloud vm stop web

    Args:
        force: Cut its power instead of asking the guest.
    """
    mode = "destroy" if force else "shutdown"
    _act(name, "stop", cloud=cloud, wait=wait, output=output, body={"mode": mode})


@app.command
def reboot(name: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Ask the guest to reboot.

    Example: supercloud vm reboot web
    """
    _act(name, "reboot", cloud=cloud, wait=wait, output=output)


@app.command
def scan(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Have its memory scanned by its blanket's YARA rules, now and not when it is its turn.

    What matches is an incident; that it has ended is a report of its blanket's, `memory.scanned`.

    Example: supercloud vm scan web
    """
    found = connect().post(f"/instances/{name}/scan", cloud=cloud)
    said(f"{name} is being scanned: supercloud incident ls shows what matches", output, **found)


@app.command
def migrate(
    name: Name, /, *, to: Name, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE
) -> None:
    """Move a running instance to another blanket, live. Ctrl-C cancels while it still can be.

    Exit status 1 if it did not arrive, its memory lost included.

    Example: supercloud vm migrate web --to s1

    Args:
        to: The blanket that it moves to.
    """
    client = connect()
    operation = client.post(f"/instances/{name}/migrate", {"to": to}, cloud=cloud)
    ended = finish(client, operation, f"migrating {name}", output, wait=wait)
    if ended:
        result = ended.get("result") or {}
        if result.get("memory_lost"):
            raise Failed(
                f"instance {name} lost its memory: {to} failed as it took over, so it booted from its disk",
                hint=f"supercloud vm show {name}",
            )
        total, down = result.get("total_s"), result.get("downtime_ms")
        times = f" in {total:.1f} s, {down:.0f} ms down" if total is not None and down is not None else ""
        said(f"instance {name} runs on {to}{times}", output)


@app.command
def place(
    name: Name,
    /,
    *,
    cloud: Cloud = None,
    where: PlacementOptions = ANYWHERE,
    output: Output = Format.TABLE,
) -> None:
    """Say anew where an instance may be, and its group. What is left out is not asked any more.

    It stays where it is; whatever moves it from now on keeps to this.

    Example: supercloud vm place web --location de --apart-from db --group shop
    """
    instance = connect().put(f"/instances/{name}/placement", where.body(), cloud=cloud)
    if output is Format.JSON:
        print_thing(instance, output)
    said(f"instance {name} is placed anew from its next move on", output)


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
    """Give an instance, and the volume that it boots from, another security level.

    It stays where it is. If its level cannot be held there, that is said: it has to be migrated.

    Example: supercloud vm set-level web hardened

    Args:
        level: From now on.
    """
    change_level("instances", name, level, lower=lower, cloud=cloud, output=output)


@app.command
def move(
    *,
    group: Name,
    cloud: Annotated[str, Parameter(name=["--cloud", "-c"], help="the cloud that the group is in")],
    to: Annotated[Names, Parameter(help="blankets; without, away from all that the group is in")] = None,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Move a group of instances, live, several at a time, each as its placement allows. Ctrl-C cancels.

    Exit status 1 if some stayed; which, where and why is said.

    Example: supercloud vm move --group shop --cloud mine --to s1 --to s2

    Args:
        group: Its instances move.
    """
    client = connect()
    operation = client.post("/instances/move", {"cloud": cloud, "group": group, "to": to or []})
    follow(client, operation, f"moving group {group}", output, wait=wait)


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
    """End an instance, put the volume that it boots from back, and start it again where it was.

    It ends as if its power was cut. What its blanket's loop has in force about it stays so. Back to
    its image its volume loses its snapshots, and it starts as it did the first time.

    Example: supercloud vm restore web --image

    Args:
        snapshot: Which one.
    """
    past = past_of(snapshot, image=image)
    client = connect()
    operation = client.post(f"/instances/{name}/restore", past, cloud=cloud)
    if finish(client, operation, f"restoring {name}", output, wait=wait):
        said(f"instance {name} runs as it was", output)


@app.command
def rm(
    name: Name,
    /,
    *,
    cloud: Cloud = None,
    force: bool = False,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Remove an instance and its boot volume.

    Example: supercloud vm rm web --force

    Args:
        force: Even while it runs.
    """
    client = connect()
    operation = client.delete(f"/instances/{name}", cloud=cloud, force=str(force).lower())
    if finish(client, operation, f"removing {name}", output, wait=wait):
        said(f"instance {name} removed", output)


@app.command
def console(name: Name, /, *, cloud: Cloud = None) -> None:
    """The instance's serial console. Ctrl-] leaves it.

    Example: supercloud vm console web
    """
    from supercloud.cli.terminal import attach

    attach(connect(), f"/instances/{name}/streams/console", cloud=cloud)


@app.command
def logs(name: Name, /, *, cloud: Cloud = None) -> None:
    """What the instance's serial console said so far.

    Example: supercloud vm logs web
    """
    from supercloud.cli.terminal import dump

    dump(connect(), f"/instances/{name}/streams/log", cloud=cloud)


@app.command
def ssh(
    name: Name,
    /,
    *command: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="what to run there instead of a shell")
    ],
    user: str = "root",
    identity: Annotated[Path | None, Parameter(name=["--identity", "-i"])] = None,
    cloud: Cloud = None,
) -> int:
    """Open a shell in the instance with this machine's ssh, through the control plane.

    Example: supercloud vm ssh web -- uname -a

    Args:
        user: Whom to log in as.
        identity: The private key's file, where it is not one that ssh offers by itself.
    """
    from supercloud.cli.terminal import ssh as run_ssh

    return run_ssh(connect(), name, user=user, identity=identity, command=command, cloud=cloud)


@app.command(show=False)
def proxy(name: Name, port: int, /, *, cloud: Cloud = None) -> None:
    """Standard input and output to a TCP port of the instance (ssh's ProxyCommand).

    Example: supercloud vm proxy web 22
    """
    from supercloud.cli.terminal import pipe

    pipe(connect(), f"/instances/{name}/streams/tcp", port=port, cloud=cloud)
