"""The agent's part in letting tools in: their connections, what is taken of what they made."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supercloud.agent.backups import Backups
from supercloud.agent.journal import Journal, Side
from supercloud.agent.streams import Streams
from supercloud.agent.tools import AgentTools
from supercloud.blanket.libvirt import tools_connection
from supercloud.blanket.libvirt.tools import LibvirtTools
from supercloud.model.errors import Conflict, NotFound, Refused, Unavailable
from supercloud.model.names import new_id
from supercloud.ports.agent import SealedKey, VolumeReport
from supercloud.ports.tools import ConnectTools, ForeignRef, OpenHanded, TakeDisk, ToolsConnection

pytestmark = pytest.mark.unit
STREAM = "ab" * 16


class Wire:
    """The dialled end: what is said there, and what is heard."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.says: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def send(self, message: bytes) -> None:
        self.heard.put_nowait(message)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (said := await self.says.get()) is not None:
            yield said


class Dialer:
    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def stream(self, stream: str) -> AsyncIterator[Wire]:
        self.wires[stream] = Wire()
        try:
            yield self.wires[stream]
        finally:
            self.ended.set()


class Opener:
    def volume(self, sealed: SealedKey, volume: str, copy: str) -> bytes:
        return f"{sealed.ciphertext} of {volume} {copy}".encode()

    def vouched(self, volume: str, copy: str, digest: str) -> str:
        return f"vouched {volume} {copy} {digest}"


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy_path(self, volume: str, copy: str) -> Path:
        return self.folder / f"{volume}.{copy}"


class Driver(LibvirtTools):
    """The real one, but for libvirt's place."""

    def __init__(self, files: Files, at: Path) -> None:
        super().__init__(connection=None, capture=None)  # type: ignore[arg-type]
        self.at = at
        self.files = files
        self.image = True
        self.inside = False
        self.forgotten: list[str] = []

    def there(self) -> bool:
        return self.image

    def let_in(self) -> bool:
        return self.inside

    async def open(self) -> None:
        self.inside = True

    def connection(self) -> AbstractAsyncContextManager[ToolsConnection]:
        return tools_connection.connected(str(self.at))

    async def take(
        self, vm: str, *, volume: str, into: str, into_key: bytes, watch: Callable[[float], None]
    ) -> VolumeReport:
        if vm == volume:
            raise Conflict("it runs")
        self.files.copy_path(volume, into).write_bytes(into_key)
        return VolumeReport(volume=volume, copy=into, size_bytes=1 << 20, allocated_bytes=0)

    async def forget(self, vm: str) -> None:
        self.forgotten.append(vm)


class Libvirt:
    """It says what it hears. What ends in `!` is answered by two sockets handed over, one after the other:
    each says its number, and then what it hears."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.pids: list[int] = []
        self.connections: list[asyncio.Task[None]] = []
        self.screens: list[asyncio.Task[None]] = []
        self.lasts = True

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(str(self.at))
            listener.listen()
            while True:
                connection, _ = await loop.sock_accept(listener)
                self.connections.append(asyncio.create_task(self._answer(connection)))

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pids.append(int.from_bytes(peer[:4], sys.byteorder))
        with connection:
            while self.lasts and (heard := await loop.sock_recv(connection, 1 << 20)):
                await loop.sock_sendall(connection, heard)
                for number in range(2 if heard.endswith(b"!") else 0):
                    ours, theirs = socket.socketpair()
                    ours.setblocking(False)
                    with theirs:
                        socket.send_fds(connection, [b"\0"], [theirs.fileno()])
                    self.screens.append(asyncio.create_task(self._echo(ours, number)))

    @staticmethod
    async def _echo(ours: socket.socket, number: int) -> None:
        loop = asyncio.get_running_loop()
        with ours:
            said = f"screen {number}".encode()
            while said:
                await loop.sock_sendall(ours, said)
                said = await loop.sock_recv(ours, 1 << 20)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.dialer, files = Dialer(), Files(folder)
        self.journal = Journal(folder / "journal")
        self.libvirt = Libvirt(folder / "libvirt-sock")
        self.driver = Driver(files, self.libvirt.at)
        unused: Any = None
        self.streams = Streams(console=unused, console_log=unused, dialer=self.dialer, journal=unused)
        self.parts: dict[str, Any] = {
            "journal": self.journal,
            "streams": self.streams,
            "volumes": files,
            "backups": Backups(self.dialer),
            "opener": Opener(),
        }
        self.tools = AgentTools(tools=self.driver, **self.parts)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    as_ourselves = tools_connection._CONNECT[tools_connection._CONNECT.index("python3") :]
    monkeypatch.setattr(tools_connection, "_CONNECT", as_ourselves)
    made = Bench(tmp_path)
    libvirt = asyncio.create_task(made.libvirt.serve())
    await asyncio.sleep(0)  # it listens
    yield made
    await made.streams.close()
    tasks = (libvirt, *made.libvirt.connections, *made.libvirt.screens)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    made.journal.close()


async def heard(wire: Wire, many: int) -> bytes:
    """So many bytes."""
    got = b""
    async with asyncio.timeout(20):
        while len(got) < many:
            got += await wire.heard.get()
    return got


async def test_nobody_is_let_in_anew_while_an_instance_moves(bench: Bench) -> None:
    """libvirt begins anew for it, and with it would end what is on its way."""
    operation = new_id()
    await bench.journal.open_transfer(operation, new_id(), Side.TARGET)
    with pytest.raises(Conflict, match="is moving"):
        await bench.tools.open()
    assert not bench.driver.inside
    await bench.journal.close_transfer(operation)
    await bench.tools.open()
    await bench.journal.open_transfer(new_id(), new_id(), Side.SOURCE)
    await bench.tools.open()  # who is in already changes nothing


async def test_each_connection_is_a_process_of_its_own_that_ends_with_it(bench: Bench) -> None:
    await bench.tools.connect(ConnectTools(stream=STREAM))
    await bench.tools.connect(ConnectTools(stream=STREAM))  # asked for again: the same
    wire = bench.dialer.wires[STREAM]
    for said in (b"\x00" * 1_000_000, b"virsh"):
        wire.says.put_nowait(said)
        assert await heard(wire, len(said)) == said
    (peer,) = bench.libvirt.pids
    assert peer != os.getpid() and Path(f"/proc/{peer}").exists(), "polkit looks it up for each act"
    wire.says.put_nowait(None)
    async with asyncio.timeout(10):
        await bench.dialer.ended.wait()
        await bench.libvirt.connections[0]
    assert not Path(f"/proc/{peer}").exists()


async def test_what_ends_in_the_blanket_ends_the_stream(bench: Bench) -> None:
    bench.libvirt.lasts = False
    await bench.tools.connect(ConnectTools(stream=STREAM))
    async with asyncio.timeout(10):
        await bench.dialer.ended.wait()


async def test_where_libvirt_is_away_there_is_no_connection(bench: Bench) -> None:
    bench.libvirt.at.unlink()
    with pytest.raises(Unavailable, match="takes no connection"):
        await bench.tools.connect(ConnectTools(stream=STREAM))
    assert not bench.dialer.wires


async def test_a_socket_that_libvirt_hands_over_is_a_stream_once(bench: Bench) -> None:
    """Of its own connection, whichever is asked for first; nobody who does not know its name has it."""
    here, there = "12" * 16, "34" * 16
    for connection in (here, there):
        await bench.tools.connect(ConnectTools(stream=connection[::-1], connection=connection))
        bench.dialer.wires[connection[::-1]].says.put_nowait(b"screens!")
        assert await heard(bench.dialer.wires[connection[::-1]], 10) == b"screens!\0\0"
    for number in (1, 0):
        stream = f"{number}{number}" * 16
        asked = OpenHanded(stream=stream, connection=here, number=number)
        await bench.tools.open_handed(asked)
        await bench.tools.open_handed(asked)  # asked for again: the same
        assert await heard(bench.dialer.wires[stream], 8) == f"screen {number}".encode()
        bench.dialer.wires[stream].says.put_nowait(b"key")
        assert await heard(bench.dialer.wires[stream], 3) == b"key"
    for connection, number in ((here, 0), (here, 2), ("ef" * 16, 0)):
        with pytest.raises(NotFound):
            await bench.tools.open_handed(OpenHanded(stream=STREAM, connection=connection, number=number))

    bench.dialer.wires[there[::-1]].says.put_nowait(None)
    async with asyncio.timeout(10):
        await asyncio.wait(bench.libvirt.screens[2:])  # which nobody asked for
    with pytest.raises(NotFound, match="no such connection"):
        await bench.tools.open_handed(OpenHanded(stream=STREAM, connection=there, number=0))


async def test_the_process_is_the_tools_user_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    words = list(tools_connection._CONNECT)
    assert words[0] == "setpriv" and tools_connection._LIBVIRT == "/run/libvirt/libvirt-sock"
    assert {"--reuid=sc-tools", "--regid=sc-tools", "--clear-groups", "--no-new-privs"} < set(words)


async def test_a_disk_that_is_taken_is_vouched_for(bench: Bench) -> None:
    vm, volume, into = new_id(), new_id(), new_id()
    key = SealedKey(blanket=new_id(), purpose="x", ciphertext="key")
    report = await bench.tools.take(TakeDisk(vm=vm, volume=volume, into=into, into_key=key))
    made = report.image
    content = f"key of {volume} {into}".encode()
    assert made is not None and made.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert made.signature == f"vouched {volume} {into} {made.digest}"
    assert (made.size_bytes, made.virtual_bytes) == (len(content), 1 << 20)
    with pytest.raises(Conflict, match="it runs"):
        await bench.tools.take(TakeDisk(vm=vm, volume=vm, into=new_id(), into_key=key))
    await bench.tools.forget(ForeignRef(vm=vm))
    assert bench.driver.forgotten == [vm]


async def test_where_there_is_no_place_for_them_nothing_is_let_in(bench: Bench) -> None:
    bench.driver.image = False
    for tools in (bench.tools, AgentTools(tools=None, **bench.parts)):
        assert not tools.there
        asked = (tools.open(), tools.connect(ConnectTools(stream=STREAM)), tools.list())
        for one in asked:
            with pytest.raises(Refused, match="no place for tools"):
                await one
    assert not bench.dialer.wires
