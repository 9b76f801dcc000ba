"""`Console` over the pseudo-terminal that QEMU gives an instance's serial port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from supercloud.blanket.domain_xml import console_device
from supercloud.blanket.libvirt.connection import Connection
from supercloud.blanket.libvirt.hypervisor import get
from supercloud.model.errors import Conflict, Unavailable
from supercloud.model.names import Id
from supercloud.ports.hypervisor import ConsoleInput

_CHUNK: Final = 4096
_UNREAD: Final = 256  # chunks a slow reader may leave; then the terminal itself holds the rest back


class Consoles:
    """One session for each instance: two readers would each get half. Mixed into `LibvirtHypervisor`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sessions: dict[Id, Session] = {}

    async def console(self, instance: Id) -> tuple[AsyncIterator[bytes], ConsoleInput]:
        """Both ways, raw. Whoever had it before is cut off: a forgotten session must not lock its owner out.

        Raises:
            NotFound: no such instance. Conflict: it has no console now.
        """
        xml = await self._connection.call(lambda handle: get(handle, instance).XMLDesc())
        try:
            device = os.open(console_device(xml), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise Conflict(f"the console of instance {instance} is gone") from error
        if (before := self._sessions.get(instance)) is not None:
            await before.close()
        session = self._sessions[instance] = Session(device)
        return session.read(), session


class Session:
    """An open console. Ends by `close`, or when the instance's process has ended."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._closed = False
        self._reading = False
        self._ending: asyncio.Task[None] | None = None
        self._listen()

    async def read(self) -> AsyncIterator[bytes]:
        """What the guest writes, until the end."""
        while chunk := await self._chunks.get():
            self._listen()
            yield chunk

    async def write(self, data: bytes) -> None:
        """As if typed. Waits while the guest does not read.

        Raises:
            Unavailable: the console has ended.
        """
        while data:
            if self._closed:
                raise Unavailable("the console has ended")
            try:
                data = data[os.write(self._device, data) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                raise Unavailable("the console has ended") from error

    async def close(self) -> None:
        """End it. Closed already: fine."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._device)
        self._loop.remove_writer(self._device)
        os.close(self._device)
        self._chunks.put_nowait(b"")

    async def _writable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._device, ready.set)
        try:
            await ready.wait()
        finally:
            if not self._closed:
                self._loop.remove_writer(self._device)

    def _listen(self) -> None:
        if not self._closed and not self._reading:
            self._loop.add_reader(self._device, self._readable)
            self._reading = True

    def _readable(self) -> None:
        try:
            chunk = os.read(self._device, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the other side of the terminal is gone
            chunk = b""
        if not chunk:
            self._loop.remove_reader(self._device)
            self._ending = self._loop.create_task(self.close())
            return
        self._chunks.put_nowait(chunk)
        if self._chunks.qsize() >= _UNREAD:
            self._loop.remove_reader(self._device)
            self._reading = False
