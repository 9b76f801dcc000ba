"""Other code for this blanket's programs, while its instances run on."""

from __future__ import annotations

import asyncio

import structlog

from supercloud.agent.images import ImageFetcher
from supercloud.model.errors import Refused
from supercloud.model.names import Digest
from supercloud.ports.agent import Bundle, PlaceImage
from supercloud.ports.hypervisor import Bundles

_log = structlog.get_logger(__name__)


class AgentUpgrade:
    """ports.agent.UpgradeAgent over the driver; without one (None), this agent stays what it is."""

    def __init__(self, *, bundles: Bundles | None, images: ImageFetcher) -> None:
        self._bundles = bundles
        self._images = images
        self._running: Digest | None = None
        self._turn = asyncio.Lock()
        self._switching = False

    async def running(self) -> Digest | None:
        """The bundle that this process was started from, if it is known."""
        if self._running is None and self._bundles is not None and not self._switching:
            self._running = await self._bundles.running()
        return self._running

    async def place(self, request: Bundle) -> None:
        bundles = self._driver()
        if await self.running() == request.digest:
            return
        async with self._turn:
            path = bundles.path(request.digest)
            await self._images.place(PlaceImage(digest=request.digest, size_bytes=request.size_bytes), path)
            await bundles.try_out(request.digest)

    async def switch(self, request: Bundle) -> None:
        bundles = self._driver()
        if await self.running() == request.digest or self._switching:
            return
        self._switching = True
        _log.info("agent.upgrading", digest=request.digest)
        await bundles.switch(request.digest)

    async def welcomed(self) -> None:
        """The control plane took us as we are, so that there is no going back to the former bundle."""
        async with self._turn:
            if self._bundles is not None and not self._switching:
                await self._bundles.confirm()

    def _driver(self) -> Bundles:
        if self._bundles is None:
            raise Refused("this agent does not run from a bundle")
        return self._bundles
