"""The agent's part in letting tools in: their connections, what is taken of what they made."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supercloud.agent.backups import Backups
from supercloud.agent.journal import Journal, Side
from supercloud.agent.streams import Streams
from supercloud.agent.tools import AgentTools
from supercloud.blanket.libvirt import tools as driver
from supercloud.blanket.libvirt.tools import LibvirtTools
from supercloud.model.errors import Conflict, Refused
from supercloud.model.names import new_id
from supercloud.ports.agent import SealedKey, VolumeReport
from supercloud.ports.tools import ConnectTools, ForeignRef, TakeDisk

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
    """The real one, but for libvirt: a connection is to a program that says what it hears."""

    def __init__(self, files: Files) -> None:
        super().__init__(connection=None, capture=None)  # type: ignore[arg-type]
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

    async def take(
        self, vm: str, *, volume: str, into: str, into_key: bytes, watch: Callable[[float], None]
    ) -> VolumeReport:
        if vm == volume:
            raise Conflict("it runs")
        self.files.copy_path(volume, into).write_bytes(into_key)
        return VolumeReport(volume=volume, copy=into, size_bytes=1 << 20, allocated_bytes=0)

    async def forget(self, vm: str) -> None:
        self.forgotten.append(vm)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.dialer, files = Dialer(), Files(folder)
        self.journal = Journal(folder / "journal")
        self.driver = Driver(files)
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
    monkeypatch.setattr(driver, "_CONNECT", ("cat",))
    made = Bench(tmp_path)
    yield made
    await made.streams.close()
    made.journal.close()


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
    for said in (b"\x00" * 100_000, b"virsh"):
        wire.says.put_nowait(said)
        heard = b""
        async with asyncio.timeout(10):
            while len(heard) < len(said):
                heard += await wire.heard.get()
        assert heard == said
    wire.says.put_nowait(None)
    async with asyncio.timeout(10):
        await bench.dialer.ended.wait()


async def test_what_ends_in_the_blanket_ends_the_stream(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_CONNECT", ("false",))
    await bench.tools.connect(ConnectTools(stream=STREAM))
    async with asyncio.timeout(10):
        await bench.dialer.ended.wait()


async def test_the_process_is_the_tools_user_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    words = list(driver._CONNECT)
    assert words[0] == "setpriv" and words[-1] == "UNIX-CONNECT:/run/libvirt/libvirt-sock"
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
