"""One connection of the tools' user to libvirt, and the sockets that libvirt hands over in it.

libvirt asks polkit by the pid and the user at the other end of its socket, as long as the connection lasts.
So a process of that user connects a socket that is ours, and stays. What goes over it we carry ourselves, and
through no pipe: libvirt hands a VM's screen over as a client on its own machine takes it, by SCM_RIGHTS.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from supercloud.model.errors import NotFound, Unavailable
from supercloud.ports.tools import Duplex, ToolsConnection

_LIBVIRT: Final = "/run/libvirt/libvirt-sock"
_USER: Final = "sc-tools"
#: Its standard input is the socket that it connects.
_CONNECT_AND_STAY: Final = """
import signal, socket, sys
socket.socket(fileno=0).connect(sys.argv[1])
print(flush=True)
signal.pause()
"""
_CONNECT: Final = (
    *("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--no-new-privs"),
    *("--pdeathsig", "KILL", "--", "python3", "-ISE", "-c", _CONNECT_AND_STAY),
)
_CONNECT_S: Final = 30.0
#: libvirt hands over no more with one message; and so many wait for being asked for.
_HANDED: Final = 32


@asynccontextmanager
async def connected(at: str = _LIBVIRT) -> AsyncIterator[ToolsConnection]:
    """
    Raises:
        Unavailable: libvirt does not listen there, or not to that user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as ours:
        process = await asyncio.create_subprocess_exec(
            *_CONNECT,
            at,
            stdin=ours.fileno(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout  # noqa: S101 - a pipe was asked for
        try:
            await _connects(process.stdout)
            ours.setblocking(False)  # not before: that would be so for whom connects as well
            with _Connection(ours) as connection:
                yield connection
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _connects(says: asyncio.StreamReader) -> None:
    try:
        async with asyncio.timeout(_CONNECT_S):
            if await says.readline():
                return
    except TimeoutError as error:
        raise Unavailable("this blanket's libvirt takes no connection in time") from error
    raise Unavailable("this blanket's libvirt takes no connection")


class _Connection:
    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._number = 0
        self._handed: dict[int, int] = {}  # number -> descriptor, until it is asked for

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._handed.values():
            os.close(descriptor)
        self._handed.clear()

    async def read(self, most: int) -> bytes:
        while True:
            try:
                data, handed, _, _ = socket.recv_fds(self._ours, most, _HANDED)
            except BlockingIOError:
                await _readable(self._ours)
                continue
            self._keep(handed)
            return data

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._ours, data)

    def _keep(self, handed: list[int]) -> None:
        for descriptor in handed:
            os.set_inheritable(descriptor, False)
            if len(self._handed) < _HANDED:
                self._handed[self._number] = descriptor
            else:
                os.close(descriptor)
            self._number += 1

    @asynccontextmanager
    async def handed(self, number: int) -> AsyncIterator[Duplex]:
        descriptor = self._handed.pop(number, None)
        if descriptor is None:
            raise NotFound(f"libvirt handed over no socket {number} in this connection, or it was taken")
        with socket.socket(fileno=descriptor) as ours:
            ours.setblocking(False)
            yield _Socket(ours)


class _Socket:
    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    async def read(self, most: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._ours, most)

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._ours, data)


async def _readable(ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(ours, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(ours)
