"""ports.tools.ToolsAgent over the driver: the user's own libvirt tools, and the disks of what they made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from supercloud.agent.backups import Backups
from supercloud.agent.images import file_digest
from supercloud.agent.journal import Journal
from supercloud.agent.opener import Opener
from supercloud.agent.streams import Streams
from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.names import Nonce
from supercloud.ports.agent import BackupReport, MadeImage
from supercloud.ports.hypervisor import Volumes, Watch
from supercloud.ports.tools import (
    ConnectTools,
    ForeignRef,
    ForeignVm,
    OpenHanded,
    TakeDisk,
    Tools,
    ToolsConnection,
)


class AgentTools:
    """Without a driver (None), or in an image without a place for tools, nothing is let in."""

    def __init__(
        self,
        *,
        tools: Tools | None,
        journal: Journal,
        streams: Streams,
        volumes: Volumes,
        backups: Backups,
        opener: Opener,
    ) -> None:
        self._tools = tools
        self._journal = journal
        self._streams = streams
        self._volumes = volumes
        self._backups = backups
        self._opener = opener
        self._connections: dict[Nonce, ToolsConnection] = {}

    @property
    def there(self) -> bool:
        return self._tools is not None and self._tools.there()

    async def open(self) -> None:
        """See the port. Twice is once. libvirt begins anew for it, which would end a transfer under way."""
        driver = self._driver()
        if not driver.let_in() and await self._journal.transfers():
            raise Conflict(
                "an instance is moving to this blanket or away, which letting tools in would break",
                hint="connect once it has arrived (supercloud operation ls)",
            )
        await driver.open()

    async def connect(self, request: ConnectTools) -> None:
        await self._streams.carry(request.stream, "tools", self._connected(request.connection))

    @asynccontextmanager
    async def _connected(self, name: Nonce | None) -> AsyncIterator[ToolsConnection]:
        async with self._driver().connection() as connection:
            if name is None:  # a client of before, which takes nothing that is handed over
                yield connection
                return
            self._connections[name] = connection
            try:
                yield connection
            finally:
                self._connections.pop(name, None)

    async def open_handed(self, request: OpenHanded) -> None:
        """See the port."""
        connection = self._connections.get(request.connection)
        if connection is None:
            raise NotFound("there is no such connection of tools")
        await self._streams.carry(request.stream, "tools", connection.handed(request.number))

    async def list(self) -> list[ForeignVm]:
        return await self._driver().list()

    async def take(self, request: TakeDisk) -> BackupReport:
        """See the port. The copy is a backup's in all but where its data comes from."""
        self._driver()
        return await self._backups.look(request.into, lambda watch: self._make_image(request, watch))

    async def _make_image(self, request: TakeDisk, watch: Watch) -> MadeImage:
        volume, into = request.volume, request.into
        key = self._opener.volume(request.into_key, volume, into)
        report = await self._driver().take(request.vm, volume=volume, into=into, into_key=key, watch=watch)
        path = self._volumes.copy_path(volume, into)
        digest = await asyncio.to_thread(file_digest, path)
        return MadeImage(
            digest=digest,
            size_bytes=path.stat().st_size,
            virtual_bytes=report.size_bytes,
            signature=self._opener.vouched(volume, into, digest),
        )

    async def forget(self, request: ForeignRef) -> None:
        await self._driver().forget(request.vm)

    def _driver(self) -> Tools:
        if self._tools is None or not self._tools.there():
            raise Refused("this blanket's image has no place for tools", hint="add a new blanket")
        return self._tools
