"""Base images go everywhere in a cloud before they are needed: then only what an instance wrote migrates.

Best effort and nothing durable: whoever needs an image places it anyhow, and joins a fetch that is under way.
"""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import select

from supercloud.model.errors import SupercloudError
from supercloud.model.names import Id
from supercloud.ports.agent import PlaceImage
from supercloud.services.parts import Parts
from supercloud.services.store.tables import Blanket, Image, Instance, Volume

_log = structlog.get_logger(__name__)


class Placement:
    """One fetch at a time in each blanket."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: dict[Id, asyncio.Lock] = {}
        #: Who will look what to fetch, and has not yet: once is enough, however many ask meanwhile.
        self._soon: set[Id] = set()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def arrived(self, blanket: Id) -> None:
        """Begin to have a blanket that connected fetch the images of its cloud."""
        self._later(blanket)

    async def follow(self, instance: Id) -> None:
        """Begin to have every blanket of an instance's cloud fetch what it was made from."""
        async with self._parts.store.read() as session:
            blankets = await session.scalars(
                select(Blanket.id)
                .join(Instance, Instance.cloud == Blanket.cloud)
                .where(Instance.id == instance, Blanket.revoked.is_(False))
            )
            found = list(blankets)
        for blanket in found:
            self._later(blanket)

    async def _place(self, blanket: Id) -> None:
        async with self._turns.setdefault(blanket, asyncio.Lock()):
            self._soon.discard(blanket)
            if not self._parts.agents.is_connected(blanket):
                return
            try:
                for image in await self._images(blanket):
                    await self._parts.agents.agent(blanket).volumes.place_image(image)
            except SupercloudError as error:
                _log.info("placement.later", blanket=blanket, why=error.message)

    async def _images(self, blanket: Id) -> list[PlaceImage]:
        async with self._parts.store.read() as session:
            rows = await session.execute(
                select(Image.digest, Image.size_bytes)
                .join(Volume, Volume.image == Image.id)
                .join(Blanket, Blanket.cloud == Volume.cloud)
                .where(Blanket.id == blanket, Image.complete.is_(True))
                .distinct()
            )
            return [PlaceImage(digest=digest, size_bytes=size) for digest, size in rows]

    def _later(self, blanket: Id) -> None:
        if blanket in self._soon:
            return
        self._soon.add(blanket)
        task = asyncio.create_task(self._place(blanket))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
