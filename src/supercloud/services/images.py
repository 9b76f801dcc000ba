"""Images, kept encrypted and by digest. The owner's side made them; nothing here can open them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import case, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound
from supercloud.model.names import Digest, Id, Name, new_id
from supercloud.services import trust
from supercloud.services.pages import EVERYTHING, Page, Part
from supercloud.services.parts import Parts
from supercloud.services.refs import caller_of, find_image, owned, owner_of, within
from supercloud.services.requests import Ref, RegisterImage
from supercloud.services.store.tables import Image, Instance, Trust, Volume
from supercloud.services.views import ImageView

_CHUNK = 256 << 10
_SPARE_BYTES = 1 << 30


def image_file(folder: Path, digest: Digest) -> Path:
    """Where a complete image is; while it is being uploaded it has `.part` behind its name."""
    return folder / digest.removeprefix("sha256:")


class Images:
    """The part of Northbound about images."""

    _uploading: set[Digest]  # by this controller, at this moment

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def register_image(self, request: RegisterImage) -> ImageView:
        """The same image again is answered with what is there, so that an upload can go on."""
        async with self._parts.store.write() as session:
            known = await session.scalar(
                select(Image).where(Image.digest == request.digest, owned(session, Image.owner))
            )
            if known is None:
                same = select(Image.id).where(Image.name == request.name, owned(session, Image.owner))
                if await session.scalar(same):
                    raise Conflict(f"there is an image {request.name} already", hint="choose another --name")
                known = Image(
                    id=new_id(),
                    owner=owner_of(session),
                    name=request.name,
                    digest=request.digest,
                    size_bytes=request.size_bytes,
                    virtual_bytes=request.virtual_bytes,
                    complete=False,
                    created_at=time.time(),
                )
                session.add(known)
            elif known.name != request.name:
                raise Conflict(f"that image is here already, as {known.name}")
        return self._image_view(known)

    async def upload_image(self, digest: Digest, offset: int, content: AsyncIterator[bytes]) -> ImageView:
        """
        Raises:
            Conflict: `offset` is not where the file ends, or another upload of it runs.
            InvalidInput: more bytes than registered, or another digest: then it has to begin anew.
            Exhausted: the disk.
        """
        async with self._parts.store.read() as session:
            row = await find_image(session, digest)
        if row.complete:
            return self._image_view(row)
        if digest in self._uploading:
            raise Conflict("this image is being uploaded already")
        self._uploading.add(digest)
        try:
            await self._append(row, offset, content)
            return await self._completed(row)
        finally:
            self._uploading.discard(digest)

    async def images(self, *, page: Page = EVERYTHING) -> Part[ImageView]:
        async with self._parts.store.read() as session:
            query = select(Image).where(owned(session, Image.owner), *page.picks(Image.name))
            rows = (await session.scalars(page.of(query, Image.name, Image.id))).all()
        return page.part(rows, lambda row: (row.name, row.id), self._image_view)

    async def image(self, ref: Ref) -> ImageView:
        async with self._parts.store.read() as session:
            return self._image_view(await find_image(session, ref))

    async def remove_image(self, ref: Ref) -> None:
        async with self._parts.store.write() as session:
            row = await find_image(session, ref)
            for table, word in ((Instance, "an instance"), (Volume, "a volume")):
                users = select(table.name, table.cloud).where(table.image == row.id)
                mine = case((within(session, table.cloud), 0), else_=1)
                user = (await session.execute(users.order_by(mine).limit(1))).one_or_none()
                if user is not None:
                    raise Conflict(f"{_said(session, word, *user)} is based on image {row.name}")
            await trust.forget(session, self._parts.keys, Trust.image == row.id)
            await self._parts.keys.destroy_image_key(image=row.id)  # of a backup; an import's stays
            await session.delete(row)
        path = image_file(self._parts.settings.images, row.digest)
        path.unlink(missing_ok=True)
        _partial(path).unlink(missing_ok=True)

    async def _append(self, row: Image, offset: int, content: AsyncIterator[bytes]) -> None:
        path = _partial(image_file(self._parts.settings.images, row.digest))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        here = path.stat().st_size if path.exists() else 0
        if offset != here:
            raise Conflict(f"{here} bytes of this image are here; the upload began at {offset}")
        if shutil.disk_usage(path.parent).free < row.size_bytes - here + _SPARE_BYTES:
            raise Exhausted(
                f"no room for {row.size_bytes - here} more bytes in {path.parent}",
                hint="remove images, or make room there",
            )
        with path.open("ab") as file:
            async for chunk in content:
                here += len(chunk)
                if here > row.size_bytes:
                    raise InvalidInput(f"more than the {row.size_bytes} bytes that were registered")
                await asyncio.to_thread(_write, file.fileno(), chunk)
            await asyncio.to_thread(os.fsync, file.fileno())

    async def _completed(self, row: Image) -> ImageView:
        path = image_file(self._parts.settings.images, row.digest)
        partial = _partial(path)
        if partial.stat().st_size < row.size_bytes:
            return self._image_view(row)
        if await asyncio.to_thread(_digest, partial) != row.digest:
            partial.unlink()
            raise InvalidInput("what was uploaded has another digest", hint="import the image again")
        partial.replace(path)
        async with self._parts.store.write() as session:
            stored = await session.get(Image, row.id)
            if stored is None:
                path.unlink(missing_ok=True)
                raise NotFound(f"image {row.name} was removed meanwhile")
            stored.complete = True
        return self._image_view(stored)

    def _image_view(self, row: Image) -> ImageView:
        partial = _partial(image_file(self._parts.settings.images, row.digest))
        here = row.size_bytes if row.complete else (partial.stat().st_size if partial.exists() else 0)
        return ImageView(
            id=row.id,
            name=row.name,
            digest=row.digest,
            size_bytes=row.size_bytes,
            virtual_bytes=row.virtual_bytes,
            complete=row.complete,
            present_bytes=here,
            key_of=row.key_of,
        )


def _said(session: AsyncSession, word: str, name: Name, cloud: Id) -> str:
    """Which it is, to who may know it. In a request about images the caller's clouds are all that it has."""
    caller = caller_of(session)
    mine = caller is None or cloud in caller.clouds
    return f"{word.split()[1]} {name}" if mine else f"{word} of another cloud"


async def read_image(path: Path, offset: int) -> AsyncIterator[bytes]:
    """The bytes of a complete image's file from `offset` on.

    Raises:
        NotFound: it is not here.
        InvalidInput: `offset` is beyond its end.
    """
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except FileNotFoundError as error:
        raise NotFound(f"image {path.name} is not here") from error
    with file:
        if not 0 <= offset <= os.fstat(file.fileno()).st_size:
            raise InvalidInput(f"{offset} is beyond the end of image {path.name}")
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        raise Exhausted(
            f"cannot write the image: {error.strerror}", hint="make room, then import it again"
        ) from error


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
