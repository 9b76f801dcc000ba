"""The `blanket` platform: a blanket runs others inside it, which its agent is asked for over its connection.

What is declared is the parent's: its own platform's ways, less what one more owner in between takes away.
"""

from __future__ import annotations

import base64

from supercloud.model.errors import InvalidInput
from supercloud.model.names import Endpoint, Id
from supercloud.platforms.values import checked_id, checked_spec
from supercloud.ports.machines import (
    Inside,
    MachineImages,
    MachineRef,
    MachineReport,
    MachinesAgent,
    MakeMachine,
    StopMachine,
)
from supercloud.ports.platform import BlanketMachine, Declaration, Machine


class BlanketPlatform:
    """ports.platform.Platform over an agent's machines."""

    def __init__(self, inside: Inside, machines: MachinesAgent, images: MachineImages) -> None:
        self._inside = inside
        self._machines = machines
        self._images = images

    async def declare(self) -> Declaration:
        return self._inside.declaration

    async def create(self, machine: BlanketMachine) -> Machine:
        spec = checked_spec(machine)
        image = await self._images(spec.image)
        await self._machines.place(image)
        return self._machine(
            await self._machines.create(
                MakeMachine(
                    machine=spec.id,
                    image=image,
                    vcpus=spec.vcpus,
                    memory_mib=spec.memory_mib,
                    disk_bytes=spec.disk_bytes,
                    birth=base64.b64encode(spec.birth).decode(),
                )
            )
        )

    async def inspect(self, machine: Id) -> Machine:
        return self._machine(await self._machines.inspect(MachineRef(machine=checked_id(machine))))

    async def list(self) -> list[Machine]:
        return [self._machine(one) for one in await self._machines.list()]

    async def start(self, machine: Id) -> Machine:
        return self._machine(await self._machines.start(MachineRef(machine=checked_id(machine))))

    async def stop(self, machine: Id, *, force: bool = False) -> Machine:
        asked = StopMachine(machine=checked_id(machine), force=force)
        return self._machine(await self._machines.stop(asked))

    async def destroy(self, machine: Id) -> None:
        await self._machines.destroy(MachineRef(machine=checked_id(machine)))

    def blanket_endpoint(self, port: int) -> Endpoint:
        """Parents route to it, so that it is called the same at every depth."""
        if not 1 <= port <= 65535:
            raise InvalidInput(f"{port} is not a port")
        return self._inside.endpoint(port)

    def _machine(self, report: MachineReport) -> Machine:
        ways = self._inside.inner
        return Machine(
            id=report.machine,
            state=report.state,
            # Beyond what its parent's platform lets in it dials out only.
            wireguard=ways[report.slot] if report.slot < len(ways) else None,
            memory_mib=report.memory_mib,
            reason=report.reason,
        )
