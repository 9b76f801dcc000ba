"""`supercloud blanket`."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from supercloud.cli.output import Format, print_rows, print_thing
from supercloud.cli.session import Cloud, Name, OptionalName, Output, Wait, connect, finish, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.cli.sizes import Size
from supercloud.model.states import BlanketState
from supercloud.model.units import GIB, MIB
from supercloud.ports.platform import Flavour

app = App(name="blanket", help="Hypervisors of your own, on providers' platforms.")
_VMS = ("name", "state", "vcpus", "memory_mib", "disk_bytes", "adoptable", "obstacle")
_COLUMNS = (
    *("name", "cloud", "provider", "parent", "depth"),
    *("state", "flavour", "connected", "confidentiality", "instances"),
)


@app.command
def add(
    name: Name,
    /,
    *,
    cloud: Name,
    provider: OptionalName = None,
    within: Annotated[
        OptionalName,
        Parameter(name="--in", help="a blanket of that cloud, or of one around it, to run it in"),
    ] = None,
    flavour: Flavour = Flavour.KVM,
    vcpus: int = 2,
    memory: Size = 2 * GIB,
    disk: Size = 20 * GIB,
    debug_shell: bool = False,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Rent a VM from a provider's platform, or run one in a blanket, and make it a blanket of a cloud.

    Example: supercloud blanket add n1 --cloud mine --provider north --memory 2G

    Example: supercloud blanket add t1 --cloud team --in n1 --vcpus 1 --memory 1G --disk 8G

    Args:
        name: What to call it.
        cloud: The cloud that it becomes part of.
        provider: The domain whose platform runs it. Either this or --in.
        flavour: Its hypervisor; live migration needs the same one at both ends.
        vcpus: Virtual CPUs of the whole blanket; one at most where it is emulated.
        memory: Memory of the whole blanket; instances take theirs from it.
        disk: Disk for images and volumes; it grows as it is used.
        debug_shell: Root on its console, for you and for whoever runs the platform: to look for faults.
    """
    client = connect()
    operation = client.post(
        "/blankets",
        {
            "name": name,
            "cloud": cloud,
            "provider": provider,
            "parent": within,
            "flavour": flavour.value,
            "vcpus": vcpus,
            "memory_mib": memory // MIB,
            "disk_bytes": disk,
            "debug_shell": debug_shell,
        },
    )
    if finish(client, operation, f"blanket {name}", output, wait=wait):
        said(f"blanket {name} is ready", output)


@app.command
def ls(
    *,
    cloud: Cloud = None,
    state: Annotated[BlanketState | None, Parameter(help="only in this state")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List blankets.

    Example: supercloud blanket ls --cloud mine

    Example: supercloud blanket ls --state unreachable
    """
    print_list("/blankets", _COLUMNS, output, cloud=cloud, state=state)


@app.command
def show(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """Show one: its state, whether its agent is connected, what its platform promises, what it is in.

    Example: supercloud blanket show n1 -o json
    """
    print_one(f"/blankets/{name}", output, cloud=cloud)


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
    """End a blanket's VM and delete its disk.

    Example: supercloud blanket rm n1

    Args:
        force: Even while instances, or other blankets, are in it.
    """
    client = connect()
    operation = client.delete(f"/blankets/{name}", cloud=cloud, force=str(force).lower())
    if finish(client, operation, f"removing {name}", output, wait=wait):
        said(f"blanket {name} removed", output)


@app.command
def start(name: Name, /, *, cloud: Cloud = None, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Start a blanket's VM again, e.g. after its host rebooted. Its instances stay stopped.

    Example: supercloud blanket start n1
    """
    client = connect()
    operation = client.post(f"/blankets/{name}/start", cloud=cloud)
    if finish(client, operation, f"starting {name}", output, wait=wait):
        said(f"blanket {name} is ready; supercloud vm start starts its instances", output)


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
    """Shut a blanket's VM down; its disk is kept, and with it every volume.

    Example: supercloud blanket stop n1

    Args:
        force: Even while instances run in it, which end; and by cutting its power.
    """
    client = connect()
    operation = client.post(f"/blankets/{name}/stop", cloud=cloud, force=str(force).lower())
    if finish(client, operation, f"stopping {name}", output, wait=wait):
        said(f"blanket {name} is stopped", output)


@app.command
def upgrade(
    name: Name,
    /,
    *,
    cloud: Cloud = None,
    wait: Wait = True,
    output: Output = Format.TABLE,
) -> None:
    """Bring a blanket's agent and keeper to the control plane's version; its instances run on.

    Example: supercloud blanket upgrade n1
    """
    client = connect()
    operation = client.post(f"/blankets/{name}/upgrade", cloud=cloud)
    if finish(client, operation, f"upgrading {name}", output, wait=wait):
        said(f"blanket {name} runs this version", output)


@app.command
def console(name: Name, /, *, cloud: Cloud = None) -> None:
    """The blanket's serial console. Ctrl-] leaves it.

    Example: supercloud blanket console n1
    """
    from supercloud.cli.terminal import attach

    attach(connect(), f"/blankets/{name}/console", cloud=cloud)


@app.command(name="connect")
def connect_tools(
    name: Name, /, *command: Annotated[str, Parameter(allow_leading_hyphen=True)], cloud: Cloud = None
) -> int:
    """Its libvirt for tools of your own: virsh, virt-install, virt-manager, Terraform, Ansible.

    Prints an address for them and serves it until Ctrl-C; or runs a command, which finds the address in
    $LIBVIRT_DEFAULT_URI. Whoever connects is as good as root in that blanket: it holds no security level
    above `open` from then on, and takes no connection while something of a higher one is in it.

    Example: supercloud blanket connect n1

    Example: supercloud blanket connect n1 -- virsh list --all

    Args:
        command: Run it, and end with its status.
    """
    from supercloud.cli.libvirt import serve

    client = connect()
    if not client.get(f"/blankets/{name}", cloud=cloud)["tools"]:
        sys.stderr.write(f"tools are let in to blanket {name}: from now on it holds no level above open\n")
    client.post(f"/blankets/{name}/tools", cloud=cloud)
    return serve(client, f"/blankets/{name}/tools", command, cloud=cloud)


@app.command
def vms(name: Name, /, *, cloud: Cloud = None, output: Output = Format.TABLE) -> None:
    """List what tools of your own made in it: VMs that are no instances (see vm adopt).

    Example: supercloud blanket vms n1
    """
    found = connect().get(f"/blankets/{name}/vms", cloud=cloud)
    if output is Format.JSON:
        print_thing(found, output)
    else:
        print_rows(found["vms"], _VMS, output)
