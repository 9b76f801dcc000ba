"""Base images, fetched by digest: resumed after a cut, and there only once every byte has been verified."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import structlog
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from supercloud.model.errors import Exhausted, Failed, NotFound, Unavailable
from supercloud.model.names import Digest
from supercloud.ports.agent import PlaceImage
from supercloud.trust.files import sync_directory

_ATTEMPTS = 20
_RETRY_S = 1.0
_UNKNOWN = 4404  # the close code of an unknown digest
_log = structlog.get_logger(__name__)


class Frames(Protocol):
    """An open connection that frames come out of."""

    def __aiter__(self) -> AsyncIterator[str | bytes]: ...


class ImageSource(Protocol):
    def image(self, digest: Digest, offset: int) -> AbstractAsyncContextManager[Frames]:
        """Raises: Unavailable, Denied, NotFound."""
        ...


class ImageFetcher:
    """One fetch of a digest at a time, whoever asks."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._fetching: dict[Digest, asyncio.Lock] = {}

    async def place(self, request: PlaceImage, path: Path) -> None:
        """Make `path` hold exactly the image. There already: fine.

        Raises:
            Exhausted: no room for it.
            Failed: what came is not what the digest names.
            Unavailable, NotFound, Denied: the source's.
        """
        async with self._fetching.setdefault(request.digest, asyncio.Lock()):
            if path.exists():
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            _room(path.parent, request, partial)
            await self._fetch(request, partial)
            if await asyncio.to_thread(file_digest, partial) != request.digest:
                partial.unlink()
                raise Failed(f"the image that came is not {request.digest}")
            partial.rename(path)
            await asyncio.to_thread(sync_directory, path.parent)

    async def _fetch(self, request: PlaceImage, partial: Path) -> None:
        failures = 0
        while True:
            before = partial.stat().st_size if partial.exists() else 0
            try:
                await self._append(request, partial, before)
            except (Unavailable, ConnectionClosedError) as error:
                if isinstance(error, ConnectionClosedError) and error.rcvd and error.rcvd.code == _UNKNOWN:
                    raise NotFound(f"the control plane has no image {request.digest}") from error
                progressed = partial.exists() and partial.stat().st_size > before
                failures = 1 if progressed else failures + 1
                if failures >= _ATTEMPTS:
                    raise Unavailable(f"image {request.digest} cannot be fetched: {error}") from error
                _log.info("agent.image_cut", digest=request.digest, reason=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _append(self, request: PlaceImage, partial: Path, offset: int) -> None:
        if offset >= request.size_bytes:
            return
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            async with self._source.image(request.digest, offset) as frames:
                try:
                    async for frame in frames:
                        offset += len(frame)
                        if not isinstance(frame, bytes) or offset > request.size_bytes:
                            raise Failed(f"image {request.digest} is not of the size that was announced")
                        await asyncio.to_thread(_write_all, descriptor, frame)
                except ConnectionClosedOK:
                    pass
            await asyncio.to_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        if offset < request.size_bytes:
            raise Unavailable(f"the stream ended after {offset} of {request.size_bytes} bytes")


def _room(folder: Path, request: PlaceImage, partial: Path) -> None:
    have = os.statvfs(folder)
    wanted = request.size_bytes - (partial.stat().st_size if partial.exists() else 0)
    if have.f_bavail * have.f_frsize < wanted:
        raise Exhausted(f"the blanket's disk has no room for {wanted >> 20} MiB of image")


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise Exhausted(f"the blanket's disk takes no more: {error.strerror}") from error


def file_digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
