"""An instance's volumes in a blanket: made, opened, removed. Keys pass through and are remembered nowhere."""

from __future__ import annotations

from supercloud.model.names import Id
from supercloud.ports.agent import MakeVolume, OpenVolume, PlaceImage, VolumeRef
from supercloud.services.sagas.world import DiskFacts, InstanceFacts, World


async def ready(world: World, instance: InstanceFacts, *, blanket: Id, operation: Id | None = None) -> None:
    """Every volume of `instance` exists in `blanket` and can be opened there.

    With `operation`: as that operation's own copies, for incoming data; else as the volumes themselves.
    """
    for disk in instance.disks:
        if operation is None:
            copy = await world.first_copy(disk.volume, blanket=blanket)
        else:
            copy = await world.reserve_copy(operation, volume=disk.volume, blanket=blanket)
        await _ready(world, instance.spec.cloud, disk, copy, blanket)


async def _ready(world: World, cloud: Id, disk: DiskFacts, copy: Id, blanket: Id) -> None:
    volumes = world.agent(blanket).volumes
    key = await world.keys.volume_key(cloud=cloud, volume=disk.volume, copy=copy, blanket=blanket)
    base_key = None
    if disk.base is not None:
        base_key = await world.keys.image_key(cloud=cloud, digest=disk.base, blanket=blanket)
        await volumes.place_image(PlaceImage(digest=disk.base, size_bytes=disk.image_bytes))
    await volumes.make(
        MakeVolume(
            volume=disk.volume,
            copy=copy,
            size_bytes=disk.size_bytes,
            key=key,
            base=disk.base,
            base_key=base_key,
        )
    )
    await volumes.open(OpenVolume(volume=disk.volume, copy=copy, key=key, base=disk.base, base_key=base_key))


async def drop_leftovers(world: World, operation: Id) -> None:
    """Delete what a migration left at the side that lost, and destroy its keys.

    Raises:
        Unavailable: that blanket is not connected. Its keys are destroyed by then.
    """
    found = await world.leftovers(operation)
    for copy in found:
        await world.keys.destroy_key(volume=copy.volume, copy=copy.copy)
    for copy in found:
        await world.agent(copy.blanket).volumes.remove(VolumeRef(volume=copy.volume, copy=copy.copy))
        await world.drop_copy(copy.copy)
