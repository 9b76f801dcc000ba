"""Two real agents and keepers over fake drivers, and what flows begin with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blanket_rig import CLOUD, Blanket, ControlPlane, blanket

from supercloud.keystore.memory import memory_keystore
from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.migration import Source
from supercloud.model.names import new_id
from supercloud.ports.agent import (
    Disk,
    InstanceSpec,
    Nic,
    OperationRef,
    ReceiveInstance,
    SendInstance,
    StartInstance,
)
from supercloud.ports.overlay import Mesh
from supercloud.wire.proxies import RemoteAgent


@dataclass
class World:
    plane: ControlPlane
    store: OwnedKeyStore
    north: Blanket
    south: Blanket


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    plane, store = ControlPlane(), memory_keystore()
    north = await blanket(plane, store, tmp_path / "north")
    south = await blanket(plane, store, tmp_path / "south")
    north.hypervisor.landed = south.hypervisor
    async with north.keeping(), south.keeping():
        yield World(plane, store, north, south)
    await plane.close()


@asynccontextmanager
async def both(world: World) -> AsyncIterator[tuple[RemoteAgent, RemoteAgent]]:
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(world.north.agent()),
            await stack.enter_async_context(world.south.agent()),
        )


def spec() -> InstanceSpec:
    return InstanceSpec(
        id=new_id(),
        name="web",
        cloud=CLOUD,
        vcpus=1,
        memory_mib=256,
        cpu_model="EPYC-v2",
        disks=(Disk(volume=new_id(), size_bytes=1 << 30, boot=True),),
        nics=(Nic(network=new_id(), mac="52:54:00:00:00:01", ip="10.1.0.2"),),
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what others do meanwhile has no event here
            await asyncio.sleep(0.01)


def kinds(world: World, place: Blanket) -> list[str]:
    return [event.kind for event in world.plane.events.get(place.id, {}).values()]


async def landed(world: World, guest: InstanceSpec, north: RemoteAgent, south: RemoteAgent) -> OperationRef:
    """Started in north, and on its way to south."""
    await north.instances.start(StartInstance(spec=guest, right=world.plane.issue(guest.id, world.north.id)))
    await south.overlay.apply(Mesh(address="100.64.0.2", generation=1))
    ref = OperationRef(operation=new_id(), instance=guest.id)
    landing = await south.migration.receive(
        ReceiveInstance(operation=ref.operation, spec=guest, source_address="100.64.0.1", expires_s=60)
    )
    assert landing.address == "100.64.0.2"
    assert world.south.overlay.grants == {("100.64.0.1", port): 60 for port in (1, 2, 3)}
    send = SendInstance(operation=ref.operation, instance=guest.id, landing=landing, expires_s=60)
    assert (await north.migration.send(send)).source is Source.ALIVE
    await north.migration.send(send)  # a repeat sends nothing more
    assert world.north.hypervisor.sent == [guest.id]
    return ref
