"""The key store's two UNIX sockets: only processes of the right user are answered."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog

from supercloud.keystore.calls import handlers
from supercloud.keystore.faces import Owner, Served
from supercloud.keystore.store import OwnedKeyStore
from supercloud.model.errors import InvalidInput
from supercloud.wire.rpc import Handlers, Peer
from supercloud.wire.stream import StreamTransport

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of SO_PEERCRED
#: Connections at once to one socket; there is one control plane and a command line or two.
_CONNECTIONS = 32
_log = structlog.get_logger(__name__)


def owner_socket(path: Path) -> Path:
    """Where the owner's face listens, beside the control plane's."""
    return path.with_name(path.name + ".owner")


class _Gate:
    """Answers on one socket, for one user."""

    def __init__(self, answers: Handlers, uid: int) -> None:
        self._answers = answers
        self._uid = uid
        self._open: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = StreamTransport(reader, writer)
        pid, uid, _ = peer_credentials(writer.get_extra_info("socket"))
        if uid != self._uid or len(self._open) > _CONNECTIONS:
            _log.warning("keystore.refused", pid=pid, uid=uid, open=len(self._open))
            await transport.close()
            return
        with suppress(asyncio.CancelledError):
            reason = await Peer(transport, self._answers).run()
            _log.info("keystore.disconnected", pid=pid, reason=reason)


def peer_credentials(connection: socket.socket) -> tuple[int, int, int]:
    """The pid, uid and gid of the process at the other end, from the kernel."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


@asynccontextmanager
async def listening(store: OwnedKeyStore, path: Path, *, controller_uid: int) -> AsyncIterator[None]:
    """Answer the control plane (running as `controller_uid`) at `path`, and the owner beside it.

    Raises:
        InvalidInput: no socket can be made there.
    """
    served = handlers(Served, "keystore", store)
    owners = handlers(Owner, "owner", store)
    async with AsyncExitStack() as stack:
        for answers, where, uid in (
            (served, path, controller_uid),
            (owners, owner_socket(path), os.getuid()),
        ):
            await stack.enter_async_context(_listening(answers, where, uid))
        yield


@asynccontextmanager
async def _listening(answers: Handlers, path: Path, uid: int) -> AsyncIterator[None]:
    gate = _Gate(answers, uid)
    server = await asyncio.start_unix_server(gate.connected, sock=_bound(path, uid))
    try:
        yield
    finally:
        server.close()
        await gate.close()
        path.unlink(missing_ok=True)


def _bound(path: Path, uid: int) -> socket.socket:
    """A socket that from its first moment on only `uid` can connect to."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if path.is_socket():  # of a key store that was killed: whoever runs holds the state's lock
            path.unlink()
        made.bind(str(path))
        if uid != os.getuid():
            os.chown(path, uid, -1)
    except OSError as error:
        made.close()
        raise InvalidInput(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(before)
    return made
