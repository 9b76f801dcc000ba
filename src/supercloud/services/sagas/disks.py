"""An instance's volumes in a blanket: made, opened, removed. Keys pass through and are remembered nowhere."""

from __future__ import annotations

from supercloud.model.errors import DataLost, NotFound
from supercloud.model.names import Id
from supercloud.ports.agent import MakeVolume, OpenVolume, PlaceImage, VolumeRef
from supercloud.services.sagas.world import CopyFacts, DiskFacts, InstanceFacts, World


async def ready(world: World, instance: InstanceFacts, *, blanket: Id, operation: Id | None = None) -> None:
    """Every volume of `instance` exists in `blanket` and can be opened there.

    With `operation`: as that operation's own copies, for incoming data; else as the volumes themselves.

    Raises:
        DataLost: a volume that was made is not there any more.
    """
    for disk in instance.disks:
        if operation is None:
            copy = await world.first_copy(disk.volume, blanket=blanket)
        else:
            copy = await world.reserve_copy(operation, volume=disk.volume, blanket=blanket)
        await ready_copy(world, instance.spec.cloud, disk, copy)


async def ready_copy(world: World, cloud: Id, disk: DiskFacts, copy: CopyFacts) -> None:
    """Made once: a blanket whose platform put back an older state of it may have lost it, and an empty copy
    in the place of a lost one would pass for the volume.

    Raises:
        DataLost: it was made, and is not there any more.
    """
    blanket = copy.blanket
    volumes = world.agent(blanket).volumes
    key = await world.keys.volume_key(cloud=cloud, volume=disk.volume, copy=copy.copy, blanket=blanket)
    base_key = None
    if disk.base is not None:
        base_key = await world.image_key(cloud=cloud, digest=disk.base, blanket=blanket)
        await volumes.place_image(PlaceImage(digest=disk.base, size_bytes=disk.image_bytes))
    if not copy.made:
        await volumes.make(
            MakeVolume(
                volume=disk.volume,
                copy=copy.copy,
                size_bytes=disk.size_bytes,
                key=key,
                base=disk.base,
                base_key=base_key,
            )
        )
        await world.note_made(copy.copy)
    opening = OpenVolume(volume=disk.volume, copy=copy.copy, key=key, base=disk.base, base_key=base_key)
    try:
        await volumes.open(opening)
    except NotFound as error:
        raise DataLost(f"its data are not where they were: {error.message}") from error


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
