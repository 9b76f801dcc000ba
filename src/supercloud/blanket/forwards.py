"""Leads one blanket's libvirt to another's through the mesh, for one operation.

libvirt listens on a UNIX socket only. At the target a TCP port of the mesh address leads to it; at the source
a UNIX socket leads to that port. Each connection, once accepted, belongs to a socat of its own that outlives
this program: a restarted agent adopts a running transfer. Memory and disks go from QEMU to QEMU past us: the
target's listens at two ports of the mesh address that are kept free for it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from supercloud.blanket.places import Places
from supercloud.model.errors import Failed
from supercloud.model.names import Id, Ipv4
from supercloud.ports.agent import Landing
from supercloud.ports.hypervisor import Route

LIBVIRT: Final = Path("/run/libvirt/libvirt-sock")
_BACKLOG: Final = 16
_CONNECT_S: Final = 10.0
_log = structlog.get_logger(__name__)

Connect = Callable[[], Awaitable[socket.socket]]


@dataclass(slots=True)
class _Open:
    """The sockets of one operation in this program's life: a listener; at the target two that keep ports."""

    landing: Landing | None = None
    sockets: list[socket.socket] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    expiry: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        for task in self.tasks:
            task.cancel()
        for one in self.sockets:
            one.close()


class SocketForwards:
    """agent.migration.Forwards."""

    def __init__(self, places: Places, *, libvirt: Path = LIBVIRT) -> None:
        self._places = places
        self._libvirt = libvirt
        self._open: dict[Id, _Open] = {}

    async def land(self, operation: Id, *, address: Ipv4, source: Ipv4, expires_s: float) -> Landing:
        """At the target. Repeating within one life of the agent returns the same ports.

        Raises:
            Failed: the mesh address is not there.
        """
        known = self._open.get(operation)
        if known is not None and known.landing is not None:
            return known.landing
        opened = self._open[operation] = _Open()
        try:
            for make in (_tcp, _kept, _kept):
                opened.sockets.append(make(address))
        except OSError as error:
            self._drop(operation)
            raise Failed(f"no port of {address} can be had: {error}") from error
        listener, memory, disk = opened.sockets
        self._serve(operation, opened, listener, partial(_to_unix, self._libvirt), only=source)
        opened.landing = landing = Landing(
            operation=operation,
            address=address,
            libvirt_port=_port(listener),
            memory_port=_port(memory),
            disk_port=_port(disk),
        )
        self._note(landing)
        self._expire(operation, opened, expires_s)
        return landing

    async def depart(self, operation: Id, *, landing: Landing, expires_s: float) -> Route:
        """At the source. The socket is there when this returns."""
        path = self._socket(operation)
        route = Route(
            libvirt=path,
            address=landing.address,
            memory_port=landing.memory_port,
            disk_port=landing.disk_port,
        )
        if operation in self._open:
            return route
        opened = self._open[operation] = _Open()
        try:
            listener = _unix(path)
        except OSError as error:
            self._drop(operation)
            raise Failed(f"the transfer's socket cannot be made: {error}") from error
        opened.sockets.append(listener)
        reach = partial(_to_tcp, landing.address, landing.libvirt_port)
        self._serve(operation, opened, listener, reach, only=None)
        self._note(landing)
        self._expire(operation, opened, expires_s)
        return route

    async def close(self, operation: Id) -> None:
        """End its listeners and connections, QEMU's too, whichever life of the agent made them."""
        self._drop(operation)
        for pid in _carriers(operation):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        note = self._note_of(operation)
        with contextlib.suppress(FileNotFoundError):
            await _cut(json.loads(note.read_text()))
        for path in (self._socket(operation), note):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------ small things

    def _socket(self, operation: Id) -> Path:
        return self._places.transfers / f"{operation}.libvirt"

    def _note_of(self, operation: Id) -> Path:
        return self._places.transfers / f"{operation}.json"

    def _note(self, landing: Landing) -> None:
        """Where QEMUs meet, for whoever has to part them after this program's end. In memory, as they are."""
        note = self._note_of(landing.operation)
        part = note.with_suffix(".part")  # read after a crash: it is there whole or not at all
        part.write_text(json.dumps([landing.address, landing.memory_port, landing.disk_port]))
        part.rename(note)

    def _drop(self, operation: Id) -> None:
        if (opened := self._open.pop(operation, None)) is not None:
            opened.close()

    def _expire(self, operation: Id, opened: _Open, seconds: float) -> None:
        """No new connections from then on; those that carry something end with their transfer."""
        opened.expiry = asyncio.get_running_loop().call_later(seconds, self._drop, operation)

    def _serve(
        self, operation: Id, opened: _Open, listener: socket.socket, connect: Connect, *, only: Ipv4 | None
    ) -> None:
        opened.tasks.append(asyncio.create_task(_accept(operation, listener, connect, only)))


async def _accept(operation: Id, listener: socket.socket, connect: Connect, only: Ipv4 | None) -> None:
    loop = asyncio.get_running_loop()
    while True:
        near, peer = await loop.sock_accept(listener)
        with near:
            if only is not None and peer[0] != only:
                _log.warning("forward.stranger", operation=operation, peer=peer[0])
                continue
            try:
                async with asyncio.timeout(_CONNECT_S):
                    far = await connect()
                with far:
                    await _carry(operation, near, far)
            except (OSError, TimeoutError) as error:
                _log.warning("forward.not_connected", operation=operation, reason=str(error))


async def _carry(operation: Id, near: socket.socket, far: socket.socket) -> None:
    """Hand both ends to a process of its own, in a session of its own."""
    for end in (near, far):
        end.setblocking(True)
    await asyncio.create_subprocess_exec(
        "socat",
        "-lp",
        _mark(operation),
        f"FD:{near.fileno()}",
        f"FD:{far.fileno()}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(near.fileno(), far.fileno()),
        start_new_session=True,
    )


def _mark(operation: Id) -> str:
    return f"transfer-{operation}"


def _carriers(operation: Id) -> list[int]:
    """The processes that carry something for this operation."""
    mark = _mark(operation).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


async def _cut(where: tuple[Ipv4, int, int]) -> None:
    """End QEMU's connections of a transfer, which would wait for a silent peer for a quarter of an hour."""
    address, *ports = where
    ends = " or ".join(f"src {address}:{port} or dst {address}:{port}" for port in ports)
    done = await asyncio.create_subprocess_exec(
        *("ss", "--kill", "--tcp", "--numeric", "--no-header", f"( {ends} )"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await done.communicate()
    if done.returncode:
        _log.warning("forward.not_cut", reason=said.decode(errors="replace").strip())


def _port(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])


def _unix(path: Path) -> socket.socket:
    """A listener for libvirtd, which is root."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setblocking(False)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(_BACKLOG)
    return listener


def _tcp(address: Ipv4) -> socket.socket:
    listener = _bound(address)
    listener.listen(_BACKLOG)
    return listener


def _kept(address: Ipv4) -> socket.socket:
    """Holds a port that nobody else is given. QEMU, which sets the same option, may listen there."""
    return _bound(address, (socket.SO_REUSEADDR, 1))


def _bound(address: Ipv4, *options: tuple[int, int]) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    try:
        for option, value in options:
            made.setsockopt(socket.SOL_SOCKET, option, value)
        made.bind((address, 0))
    except OSError:
        made.close()
        raise
    return made


async def _to_unix(path: Path) -> socket.socket:
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    return await _connected(far, str(path))


async def _to_tcp(address: Ipv4, port: int) -> socket.socket:
    far = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return await _connected(far, (address, port))


async def _connected(far: socket.socket, where: str | tuple[str, int]) -> socket.socket:
    far.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(far, where)
    except BaseException:
        far.close()
        raise
    return far
