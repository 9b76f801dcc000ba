"""`supercloud blanket`."""

from __future__ import annotations

from cyclopts import App

from supercloud.cli.output import Format
from supercloud.cli.session import Cloud, Output, Wait, connect, finish, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.cli.sizes import Size
from supercloud.model.names import GIB, MIB

app = App(name="blanket", help="Hypervisors of your own, on providers' platforms.")
_COLUMNS = ("name", "cloud", "provider", "state", "flavour", "connected", "confidentiality", "instances")


@app.command
def add(
    name: str,
    /,
    *,
    cloud: str,
    provider: str,
    flavour: str = "kvm",
    vcpus: int = 2,
    memory: Size = 2 * GIB,
    disk: Size = 20 * GIB,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Rent a VM from a provider's platform and make it a blanket of a cloud.

    Example: supercloud blanket add n1 --cloud mine --provider north --memory 2G
    """
    client = connect()
    operation = client.post(
        "/blankets",
        {
            "name": name,
            "cloud": cloud,
            "provider": provider,
            "flavour": flavour,
            "vcpus": vcpus,
            "memory_mib": memory // MIB,
            "disk_bytes": disk,
        },
    )
    if finish(client, operation, f"blanket {name}", output, wait=wait):
        said(f"blanket {name} is ready", output)


@app.command
def ls(*, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List blankets."""
    print_list("/blankets", _COLUMNS, output, cloud=cloud)


@app.command
def show(name: str, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one."""
    print_one(f"/blankets/{name}", output, cloud=cloud)


@app.command
def rm(
    name: str,
    /,
    *,
    cloud: Cloud = None,
    force: bool = False,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """End a blanket's VM and delete its disk; with --force even while instances are in it."""
    client = connect()
    operation = client.delete(f"/blankets/{name}", cloud=cloud, force=str(force).lower())
    finish(client, operation, f"removing {name}", output, wait=wait)


@app.command
def console(name: str, /, *, cloud: Cloud = None) -> None:
    """The blanket's serial console. Ctrl-] leaves it."""
    from supercloud.cli.terminal import attach

    attach(connect(), f"/blankets/{name}/console", cloud=cloud)
