"""Copies of the control plane's state, and coming back from one.

A backup of SQLite is one tar file: a consistent copy of the database, taken while it is used, and the
encrypted images. What durable operations remembered is left out on purpose: they begin anew, which every one
of their steps allows. PostgreSQL has its own tools; after them, `mark_restored` is what remains to be done.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import select

from supercloud import __version__
from supercloud.model.errors import Conflict, Exhausted, InvalidInput, NotFound
from supercloud.services.durable import operations_file
from supercloud.services.images import image_file
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Image, Meta
from supercloud.services.store.time import RESTORES, restores
from supercloud.trust.files import sync_directory

_FORMAT = 1
_MANIFEST, _DATABASE, _IMAGES = "manifest.json", "supercloud.db", "images"


def back_up(database: Path, images: Path, to: Path) -> None:
    """Write `to`, whole or not at all; the control plane may run meanwhile.

    Raises:
        NotFound: there is no such database.
        Exhausted: the disk.
    """
    if not database.is_file():
        raise NotFound(f"there is no state in {database.parent}")
    to = to.absolute()
    try:
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".backup-") as folder:
            copy = Path(folder) / _DATABASE
            _copy(database, copy)
            partial = Path(folder) / "backup.tar"
            with tarfile.open(partial, "w") as archive:
                _add_manifest(archive)
                archive.add(copy, _DATABASE)
                for one in sorted(images.glob("[0-9a-f]*")) if images.is_dir() else ():
                    if one.suffix != ".part":
                        archive.add(one, f"{_IMAGES}/{one.name}")
            partial.chmod(0o600)
            _sync(partial)
            partial.replace(to)
    except OSError as error:
        raise Exhausted(f"cannot write {to}: {error.strerror}") from error


async def restore(database: Path, images: Path, source: Path) -> None:
    """Put the state of `source` in place of what is there, which is kept beside it.

    It is marked as restored before it is in its place: broken off anywhere, there is the old state or this
    one, and never a backup that passes for what was there all the time.

    Raises:
        Conflict: a control plane uses it now.
        InvalidInput: not a backup.
        Exhausted: the disk.
    """
    database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix=".restore-") as folder:
        unpacked = Path(folder)
        _unpack(source, unpacked)
        images.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with _alone_with(database):
            for one in (unpacked / _IMAGES).glob("*"):
                one.replace(images / one.name)
            await _mark(unpacked / _DATABASE, images)
            _set_aside(database)
            (unpacked / _DATABASE).replace(database)
            sync_directory(database.parent)


@asynccontextmanager
async def _alone_with(database: Path) -> AsyncIterator[None]:
    """Whoever holds the database's lock may move it away."""
    store = await Store.open(f"sqlite:///{database}", migrate=False)
    try:
        yield
    finally:
        await store.close()


async def _mark(database: Path, images: Path) -> None:
    store = await Store.open(f"sqlite:///{database}")
    try:
        await mark_restored(store)
        await _check_images(store, images)
    finally:
        await store.close()
    _settle(database)
    _sync(database)


async def mark_restored(store: Store) -> None:
    """The store is what it was some time ago: another incarnation, so that rights stand still for a while."""
    async with store.write() as session:
        generation = await restores(session) + 1
        await session.merge(Meta(key=RESTORES, value=str(generation)))


def _set_aside(database: Path) -> None:
    """Keep what is there, which may be damaged, under another name; its log does not stay."""
    kept = database.with_name(database.name + ".before-restore")
    with contextlib.suppress(sqlite3.Error):
        _settle(database)
    for suffix in ("-wal", "-shm"):
        kept.with_name(kept.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + suffix).replace(kept.with_name(kept.name + suffix))
    kept.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.link(database, kept)
    for leftover in operations_file(database).parent.glob(operations_file(database).name + "*"):
        leftover.unlink()


def _settle(database: Path) -> None:
    """Bring SQLite's log into the file itself, if there is one."""
    if database.exists():
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _check_images(store: Store, images: Path) -> None:
    """An image whose file did not come with the backup has to be uploaded again."""
    async with store.write() as session:
        for row in await session.scalars(select(Image)):
            row.complete = image_file(images, row.digest).is_file()


def _copy(database: Path, to: Path) -> None:
    try:
        source, target = sqlite3.connect(f"file:{database}?mode=ro", uri=True), sqlite3.connect(to)
        try:
            source.backup(target)
        finally:
            target.close()
            source.close()
    except sqlite3.Error as error:
        raise Conflict(f"cannot read {database}: {error}") from error


def _unpack(source: Path, into: Path) -> None:
    try:
        with tarfile.open(source, "r:") as archive:
            archive.extractall(into, filter="data")
        manifest = json.loads((into / _MANIFEST).read_text())
        usable = manifest["format"] == _FORMAT and (into / _DATABASE).is_file()
    except FileNotFoundError as error:
        raise NotFound(f"there is no complete backup in {source}") from error
    except OSError as error:
        raise Exhausted(f"cannot unpack {source} beside what is there: {error.strerror or error}") from error
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{source} is not a backup: {error}") from error
    if not usable:
        raise InvalidInput(f"{source} is not a backup that this version can read")


def _add_manifest(archive: tarfile.TarFile) -> None:
    content = json.dumps({"format": _FORMAT, "version": __version__}).encode()
    entry = tarfile.TarInfo(_MANIFEST)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
