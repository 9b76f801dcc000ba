"""One blanket's libvirt is led to another's, and two QEMUs find a port and are parted, on the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from supercloud.blanket.forwards import SocketForwards
from supercloud.blanket.places import Places
from supercloud.model.names import new_id
from supercloud.ports.agent import Landing

pytestmark = [pytest.mark.unit, pytest.mark.timeout(60)]
TARGET, SOURCE = "127.0.0.2", "127.0.0.1"  # who connects from the loopback is .1


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, as sockets need."""
    with TemporaryDirectory(prefix="sc-") as made:
        yield Path(made)


@pytest.fixture
def north(home: Path) -> SocketForwards:
    return _forwards(home / "north")


@pytest.fixture
async def south(home: Path) -> AsyncIterator[SocketForwards]:
    """Its libvirt says back what it is told."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    made = _forwards(home / "south")
    async with await asyncio.start_unix_server(echo, home / "south" / "libvirt"):
        yield made


def _forwards(at: Path) -> SocketForwards:
    places = Places(run=at, data=at)
    places.make(user=None)
    return SocketForwards(places, libvirt=at / "libvirt")


async def _land(south: SocketForwards, operation: str, *, source: str = SOURCE) -> Landing:
    return await south.land(operation, address=TARGET, source=source, expires_s=60)


async def test_one_libvirt_reaches_the_other_by_a_socket(
    north: SocketForwards, south: SocketForwards
) -> None:
    operation = new_id()
    landing = await _land(south, operation)
    route = await north.depart(operation, landing=landing, expires_s=60)
    assert route.libvirt.stat().st_mode & 0o777 == 0o600
    reader, writer = await asyncio.open_unix_connection(route.libvirt)
    writer.write(b"are you there?\n")
    assert await reader.readline() == b"are you there?\n"
    writer.close()
    await north.close(operation)
    await south.close(operation)
    assert not route.libvirt.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(TARGET, landing.libvirt_port)


async def test_a_stranger_is_not_let_through(south: SocketForwards) -> None:
    operation = new_id()
    landing = await _land(south, operation, source="127.0.0.9")
    reader, writer = await asyncio.open_connection(TARGET, landing.libvirt_port)
    assert await reader.read() == b""
    writer.close()
    await south.close(operation)


async def test_asked_again_the_ports_are_the_same(south: SocketForwards) -> None:
    operation = new_id()
    assert await _land(south, operation) == await _land(south, operation)
    await south.close(operation)


async def test_a_qemu_listens_at_a_port_that_nobody_else_is_given(south: SocketForwards) -> None:
    operations = [new_id() for _ in range(20)]
    landings = [await _land(south, one) for one in operations]
    ports = {port for one in landings for port in (one.libvirt_port, one.memory_port, one.disk_port)}
    assert len(ports) == 60
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind((TARGET, landings[0].memory_port))
    with _qemu(landings[0].memory_port), _qemu(landings[0].disk_port):
        for one in operations:
            await south.close(one)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may end another's connection")
@pytest.mark.parametrize("side", ["north", "south"])
async def test_what_two_qemus_have_under_way_is_cut_also_by_the_agents_next_life(
    north: SocketForwards, south: SocketForwards, side: str, home: Path
) -> None:
    operation = new_id()
    landing = await _land(south, operation)
    await north.depart(operation, landing=landing, expires_s=60)
    with (
        _qemu(landing.memory_port) as listener,
        socket.create_connection((TARGET, landing.memory_port)) as far,
    ):
        near, _ = listener.accept()
        with near:
            await _forwards(home / side).close(operation)
            for end in (near, far):
                end.settimeout(20)
                with pytest.raises(ConnectionError):
                    end.recv(1)
    await north.close(operation)
    await south.close(operation)


async def test_what_was_never_opened_is_closed_and_a_stranger_is_not_cut(south: SocketForwards) -> None:
    with _qemu(0) as listener, socket.create_connection(listener.getsockname()) as far:
        near, _ = listener.accept()
        with near:
            await south.close(new_id())
            near.sendall(b"x")
            assert far.recv(1) == b"x"


def _qemu(port: int) -> socket.socket:
    """A listener with the option that QEMU's have."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((TARGET, port))
    listener.listen(1)
    return listener
