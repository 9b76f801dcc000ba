"""A backup of a volume: an image of what it holds now, made where it is, under a key of the owner's store.

In the blanket it is one more copy of the volume, with a row of its own, so that whatever becomes of the
operation, the copy is known or is found as an orphan. The control plane stores the file and can open nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import select

from supercloud.model.errors import Conflict, Failed, NotFound, SupercloudError, Unavailable
from supercloud.model.names import MIB, Id, Name
from supercloud.ports.agent import BackUpVolume, MadeImage, SendCopy, VolumeRef
from supercloud.ports.durable import Saga
from supercloud.services.images import Images
from supercloud.services.operations import Intent
from supercloud.services.parts import Parts
from supercloud.services.sagas.world import CopyFacts, World
from supercloud.services.store.tables import Cloud, Image
from supercloud.services.streams import ByteStream
from supercloud.services.volume_operations import VolumeOperations

T = TypeVar("T")
_MAKING, _STORING = "making an image of it", "storing the image"
#: How often and how long a blanket is asked that does not answer: its agent may be restarting.
_AGAIN_S, _INSIST_S = 1.0, 120.0
_TELL_EVERY_S = 1.0
#: Beyond the data, an image has its own tables and the header with its key.
_OVERHEAD_BYTES: Final = 16 * MIB
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VolumeBackups:
    """The work of `volume.backup`."""

    parts: Parts
    world: World
    volumes: VolumeOperations
    images: Images

    async def back_up(self, saga: Saga, intent: Intent) -> dict[str, Any]:
        volume, name = intent["volume"], intent["image"]
        copy = await saga.step("reserve", lambda: self._reserve(saga.operation, volume), CopyFacts)
        try:
            await saga.progress(_MAKING, done=0.0)
            made = await saga.step("make", lambda: self._make(saga, copy), MadeImage)
            await saga.step("register", lambda: self.register(copy, name, made), type(None))
            await saga.progress(_STORING, done=0.0)
            await saga.step("store", lambda: self.store(saga, copy), type(None))
        except SupercloudError:
            await saga.progress("cleaning up")
            await saga.step("undo", lambda: self.undo(copy), type(None))
            raise
        await saga.step("tidy", lambda: self.discard(copy), type(None))
        return {"volume": volume, "image": copy.copy, "name": name, "digest": made.digest}

    # ------------------------------------------------------------ steps, those without _ of adoptions too

    async def _reserve(self, operation: Id, volume: Id) -> CopyFacts:
        """A copy where the volume is. The image will have its id."""
        seen = await self.volumes.look(volume)
        if seen.copy is None:
            raise Conflict(f"volume {seen.row.name} has no data yet", hint="attach it to an instance first")
        blanket = seen.copy.blanket
        return await self.world.reserve_copy(operation, volume=volume, blanket=blanket)

    async def _make(self, saga: Saga, copy: CopyFacts) -> MadeImage:
        request = await self._request(copy)
        agent = self.world.agent(copy.blanket)
        while True:
            report = await insist(lambda: agent.volumes.back_up(request))
            if report.image is not None:
                return report.image
            await self.going_on(saga, _MAKING, report.done)

    async def _request(self, copy: CopyFacts) -> BackUpVolume:
        seen = await self.volumes.look(copy.volume)
        if seen.copy is None or seen.copy.blanket != copy.blanket:
            raise Conflict(f"volume {seen.row.name} has moved meanwhile")
        keys, cloud, current = self.parts.keys, seen.row.cloud, seen.copy.id
        base, base_key = await self.volumes.base(seen, copy.blanket)
        return BackUpVolume(
            volume=copy.volume,
            copy=current,
            key=await keys.volume_key(cloud=cloud, volume=copy.volume, copy=current, blanket=copy.blanket),
            into=copy.copy,
            into_key=await keys.volume_key(
                cloud=cloud, volume=copy.volume, copy=copy.copy, blanket=copy.blanket
            ),
            base=base,
            base_key=base_key,
            instance=seen.instance.id if seen.instance is not None else None,
        )

    async def register(self, copy: CopyFacts, name: Name, made: MadeImage) -> None:
        """Have the key store bind the copy's key to the digest that the blanket has signed."""
        volume = (await self.volumes.look(copy.volume)).row
        if made.size_bytes > made.virtual_bytes + made.virtual_bytes // 512 + _OVERHEAD_BYTES:
            raise Failed(f"an image of {made.size_bytes} bytes cannot be of volume {volume.name}")
        async with self.parts.store.write() as session:
            if await session.get(Image, copy.copy) is None:
                owner = (await session.get_one(Cloud, volume.cloud)).owner
                if await session.scalar(select(Image.id).where(Image.name == name, Image.owner == owner)):
                    raise Conflict(f"there is an image {name} already", hint="choose another --to")
                session.add(
                    Image(
                        id=copy.copy,
                        owner=owner,
                        name=name,
                        digest=made.digest,
                        size_bytes=made.size_bytes,
                        virtual_bytes=made.virtual_bytes,
                        complete=False,
                        key_of=volume.cloud,
                        created_at=time.time(),
                    )
                )
        await self.parts.keys.bind_copy(
            cloud=volume.cloud,
            volume=copy.volume,
            copy=copy.copy,
            blanket=copy.blanket,
            digest=made.digest,
            signature=made.signature,
        )

    async def store(self, saga: Saga, copy: CopyFacts) -> None:
        """Fetch the file from where it ends here, again and again while that goes on."""
        loop = asyncio.get_running_loop()
        here, deadline = -1, 0.0
        while not (image := await self.images.image(copy.copy)).complete:
            if image.present_bytes > here:
                here, deadline = image.present_bytes, loop.time() + _INSIST_S
            elif loop.time() > deadline:
                raise Unavailable(f"the blanket does not send the rest of image {image.name}")
            else:
                await asyncio.sleep(_AGAIN_S)
            await self.going_on(saga, _STORING, here / image.size_bytes)
            try:
                stream = await self._fetched(copy, here)
            except Unavailable as error:
                _log.info("backup.not_sent", operation=saga.operation, why=error.message)
                continue
            try:
                content = self._watched(saga, stream, here, image.size_bytes)
                async with aclosing(content):
                    await self.images.upload_image(image.digest, here, content)
            finally:
                await stream.close()

    async def _fetched(self, copy: CopyFacts, offset: int) -> ByteStream:
        return await self.parts.streams.ask(
            copy.blanket,
            lambda agent, name: agent.volumes.send(
                SendCopy(stream=name, volume=copy.volume, copy=copy.copy, offset=offset)
            ),
        )

    async def _watched(
        self, saga: Saga, stream: ByteStream, here: int, size_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        told = time.monotonic()
        async for data in stream:
            yield data
            here += len(data)
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                await self.going_on(saga, _STORING, here / size_bytes)

    async def going_on(self, saga: Saga, phase: str, done: float) -> None:
        """
        Raises:
            Failed: somebody wants it given up.
        """
        await saga.progress(phase, done=done)
        if await self.world.cancel_asked(saga.operation):
            raise Failed("the backup was given up")

    async def undo(self, copy: CopyFacts) -> None:
        try:
            await insist(lambda: self.images.remove_image(copy.copy))
        except NotFound:
            pass  # it failed before there was one
        except SupercloudError as error:
            _log.warning("backup.image_stays", image=copy.copy, why=error.message)
        await self.discard(copy)

    async def discard(self, copy: CopyFacts) -> None:
        """The blanket's copy, and its key as a copy's. What stays there because the blanket is away is
        unknown once its row is gone, and is removed as an orphan when the blanket is back."""
        ref = VolumeRef(volume=copy.volume, copy=copy.copy)
        try:
            await self.parts.keys.destroy_key(volume=copy.volume, copy=copy.copy)
            await self.world.agent(copy.blanket).volumes.remove(ref)
        except SupercloudError as error:
            _log.info("backup.copy_stays", blanket=copy.blanket, copy=copy.copy, why=error.message)
        await self.world.drop_copy(copy.copy)


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """
    Raises:
        Unavailable: no answer in all the time that it is insisted.
    """
    deadline = asyncio.get_running_loop().time() + _INSIST_S
    while True:
        try:
            return await ask()
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_AGAIN_S)
