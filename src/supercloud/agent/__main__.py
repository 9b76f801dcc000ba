"""`python3 -m supercloud.agent`: the agent's composition root, the only place that picks its drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from supercloud import heap, logs
from supercloud.agent.agent import Drivers
from supercloud.agent.birth import Birth
from supercloud.agent.loop import LoopHands, usual_detectors
from supercloud.agent.main import JOURNAL, serve
from supercloud.agent.restarts import ComponentReactions
from supercloud.blanket import commands, guest_memory
from supercloud.blanket.bundles import MountedBundles
from supercloud.blanket.forwards import SocketForwards
from supercloud.blanket.keyring import Keyring
from supercloud.blanket.libvirt.connection import Connection
from supercloud.blanket.libvirt.driver import LibvirtHypervisor
from supercloud.blanket.libvirt.secrets import LibvirtSecrets
from supercloud.blanket.libvirt.tools import LibvirtTools
from supercloud.blanket.machines.driver import LibvirtMachines, opened
from supercloud.blanket.machines.network import MachineNetwork
from supercloud.blanket.overlay.driver import LinuxOverlay
from supercloud.blanket.overlay.reactions import PortReactions
from supercloud.blanket.places import LOOP_SOCKET, YARA_RULES, Places
from supercloud.blanket.volumes import LuksVolumes
from supercloud.keeper.link import SOCKET
from supercloud.security.actuators import Actuators


@asynccontextmanager
async def linux(birth: Birth) -> AsyncIterator[Drivers]:
    """A blanket of ours: Debian's libvirt, QEMU and kernel."""
    places = Places()
    places.make()
    guest_memory.allow_huge_pages()
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
                tools=LibvirtTools(connection, volumes.capture),
                machines=machines,
                loop=LoopHands(
                    actuator=Actuators(
                        [
                            PortReactions(overlay.devices),
                            ComponentReactions(
                                commands.run, LOOP_SOCKET.parent / "components", blanket=birth.blanket
                            ),
                        ]
                    ),
                    owner=overlay.owner,
                    journal=JOURNAL.with_name("loop.sqlite"),
                    socket=LOOP_SOCKET,
                    instances=guest_memory.running,
                    detectors=usual_detectors(),
                    memory=guest_memory.open_memory,
                    evidence=places.evidence,
                    yara=YARA_RULES,
                ),
            )
    finally:
        await overlay.close()


def main() -> None:
    logs.configure()
    heap.give_back()
    with suppress(asyncio.CancelledError):  # told to end, it has not failed
        asyncio.run(serve(linux))


if __name__ == "__main__":
    main()
