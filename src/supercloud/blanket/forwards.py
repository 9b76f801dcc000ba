"""Carries a migration's UNIX sockets through the mesh, for one operation, between exactly two blankets.

libvirt and QEMU listen on UNIX sockets only. At the target three TCP ports of the mesh address lead to them;
at the source three UNIX sockets lead to those ports. Each connection, once accepted, belongs to a socat of
its own that outlives this program: a restarted agent adopts a running transfer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
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
from supercloud.ports.hypervisor import TransferSockets

LIBVIRT: Final = Path("/run/libvirt/libvirt-sock")
_BACKLOG: Final = 16
_CONNECT_S: Final = 10.0
#: What is on its way when the guest is stopped for the last pages is downtime, since QEMU counts as sent what
#: it has written. So little waits here, and in the kernel no more than the network can take at once.
_BUFFER_BYTES: Final = 64 << 10
_log = structlog.get_logger(__name__)

Connect = Callable[[], Awaitable[socket.socket]]


@dataclass(slots=True)
class _Open:
    """The listeners of one operation in this program's life."""

    landing: Landing | None = None
    listeners: list[socket.socket] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    expiry: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
        for task in self.tasks:
            task.cancel()
        for listener in self.listeners:
            listener.close()


class SocketForwards:
    """agent.migration.Forwards."""

    def __init__(self, places: Places, *, libvirt: Path = LIBVIRT, user: str | None = "libvirt-qemu") -> None:
        self._places = places
        self._libvirt = libvirt
        self._user = user
        self._open: dict[Id, _Open] = {}

    async def land(self, operation: Id, *, address: Ipv4, source: Ipv4, expires_s: float) -> Landing:
        """At the target. Repeating within one life of the agent returns the same ports.

        Raises:
            Failed: the mesh address is not there.
        """
        known = self._open.get(operation)
        if known is not None and known.landing is not None:
            return known.landing
        sockets = self._sockets(operation)
        opened = self._open[operation] = _Open()
        ports = []
        try:
            for path in (self._libvirt, sockets.memory, sockets.disk):
                listener = _tcp(address)
                opened.listeners.append(listener)
                ports.append(listener.getsockname()[1])
                self._serve(operation, opened, listener, partial(_to_unix, path), only=source)
        except OSError as error:
            self._drop(operation)
            raise Failed(f"no port of {address} can be had: {error}") from error
        opened.landing = Landing(
            operation=operation,
            address=address,
            libvirt_port=ports[0],
            memory_port=ports[1],
            disk_port=ports[2],
        )
        self._expire(operation, opened, expires_s)
        return opened.landing

    async def depart(self, operation: Id, *, landing: Landing, expires_s: float) -> TransferSockets:
        """At the source. The sockets are there when this returns."""
        sockets = self._sockets(operation)
        if operation in self._open:
            return sockets
        opened = self._open[operation] = _Open()
        try:
            for path, port in (
                (sockets.libvirt, landing.libvirt_port),
                (sockets.memory, landing.memory_port),
                (sockets.disk, landing.disk_port),
            ):
                listener = self._unix(path)
                opened.listeners.append(listener)
                self._serve(operation, opened, listener, partial(_to_tcp, landing.address, port), only=None)
        except OSError as error:
            self._drop(operation)
            raise Failed(f"the transfer's sockets cannot be made: {error}") from error
        self._expire(operation, opened, expires_s)
        return sockets

    async def close(self, operation: Id) -> None:
        """End its listeners, its connections and its sockets, whichever life of the agent made them."""
        self._drop(operation)
        for pid in _carriers(operation):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        sockets = self._sockets(operation)
        for path in (sockets.libvirt, sockets.memory, sockets.disk):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------ small things

    def _sockets(self, operation: Id) -> TransferSockets:
        """The same paths on both sides: QEMU listens at the target's, we listen at the source's."""
        folder = self._places.transfers
        return TransferSockets(
            libvirt=folder / f"{operation}.libvirt",
            memory=folder / f"{operation}.memory",
            disk=folder / f"{operation}.disk",
        )

    def _drop(self, operation: Id) -> None:
        if (opened := self._open.pop(operation, None)) is not None:
            opened.close()

    def _expire(self, operation: Id, opened: _Open, seconds: float) -> None:
        """No new connections from then on; those that carry something end with their transfer."""
        opened.expiry = asyncio.get_running_loop().call_later(seconds, self._drop, operation)

    def _unix(self, path: Path) -> socket.socket:
        """A listener that QEMU's user may connect to."""
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setblocking(False)
        listener.bind(str(path))
        if self._user is not None:
            shutil.chown(path, self._user)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        return listener

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
        "-b",
        str(_BUFFER_BYTES),
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


def _tcp(address: Ipv4) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setblocking(False)
    try:
        listener.bind((address, 0))
    except OSError:
        listener.close()
        raise
    listener.listen(_BACKLOG)
    return listener


async def _to_unix(path: Path) -> socket.socket:
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    return await _connected(far, str(path))


async def _to_tcp(address: Ipv4, port: int) -> socket.socket:
    far = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _BUFFER_BYTES)
    return await _connected(far, (address, port))


async def _connected(far: socket.socket, where: str | tuple[str, int]) -> socket.socket:
    far.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(far, where)
    except BaseException:
        far.close()
        raise
    return far
