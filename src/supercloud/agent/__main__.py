"""`python3 -m supercloud.agent`: the agent's composition root, the only place that picks its drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from supercloud import logs
from supercloud.agent.agent import Drivers
from supercloud.agent.birth import Birth
from supercloud.agent.main import serve
from supercloud.blanket.bundles import MountedBundles
from supercloud.blanket.forwards import SocketForwards
from supercloud.blanket.keyring import Keyring
from supercloud.blanket.libvirt.connection import Connection
from supercloud.blanket.libvirt.driver import LibvirtHypervisor
from supercloud.blanket.libvirt.secrets import LibvirtSecrets
from supercloud.blanket.machines.driver import LibvirtMachines, opened
from supercloud.blanket.machines.network import MachineNetwork
from supercloud.blanket.overlay.driver import LinuxOverlay
from supercloud.blanket.places import Places
from supercloud.blanket.volumes import LuksVolumes
from supercloud.keeper.link import SOCKET


@asynccontextmanager
async def linux(birth: Birth) -> AsyncIterator[Drivers]:
    """A blanket of ours: Debian's libvirt, QEMU and kernel."""
    places = Places()
    places.make()
    overlay = LinuxOverlay(blanket=birth.blanket, listen_port=birth.wireguard_port)
    await overlay.start()
    try:
        async with Connection() as connection, AsyncExitStack() as stack:
            keyring = Keyring(places.keys)
            volumes = LuksVolumes(places, keyring, LibvirtSecrets(connection, keyring))
            volumes.sweep()
            hypervisor = LibvirtHypervisor(connection, sources=volumes.source, places=places)
            network = MachineNetwork(control=birth.endpoint)
            machines = LibvirtMachines(connection, places=places, network=network)
            await stack.enter_async_context(opened(machines))
            yield Drivers(
                hypervisor=hypervisor,
                volumes=volumes,
                overlay=overlay,
                forwards=SocketForwards(places),
                console_log=places.console_log,
                data=places.data,
                cpu_models=hypervisor.cpu_models,
                bundles=MountedBundles(data=places.data, run=places.run, keeper=SOCKET),
                machines=machines,
            )
    finally:
        await overlay.close()


def main() -> None:
    logs.configure()
    asyncio.run(serve(linux))


if __name__ == "__main__":
    main()
