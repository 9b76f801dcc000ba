"""`supercloud image`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from cyclopts import App

from supercloud.cli.output import Bar, Format, print_thing, progress
from supercloud.cli.session import Name, Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.client import Client, Place
from supercloud.images.header import ImageFormat
from supercloud.images.importer import Encrypted, check, encrypt
from supercloud.keystore.client import RemoteOwner
from supercloud.model.errors import Conflict, NotFound, Unavailable

app = App(name="image", help="Bootable disks.")
_COLUMNS = ("name", "size_bytes", "virtual_bytes", "complete", "digest")
_UPLOAD_TRIES = 5
T = TypeVar("T")


@app.command(name="import")
def import_image(
    file: Path, /, *, name: Name, format: ImageFormat | None = None, output: Output = Format.TABLE
) -> None:
    """Check a disk image, encrypt it here, and hand the encrypted file to the control plane.

    An import that was interrupted can be run again.

    Example: supercloud image import debian-12.qcow2 --name debian

    Args:
        file: The image; it may be hostile.
        name: What to call it.
        format: Of the file, where it is not to be found out from its content.
    """
    with (
        progress(f"importing {name}", quiet=output is Format.JSON) as bar,
        tempfile.TemporaryDirectory(prefix="supercloud-import-") as scratch,
    ):
        bar("checking", None)
        source = check(file, format)
        client = connect()
        _make_way(client, name)
        # The key is asked of the owner's key store directly; the control plane never sees it.
        key = _ask_owner(lambda owner: owner.new_image_key())
        made = encrypt(source, key.passphrase, Path(scratch), lambda done: bar("encrypting", done))
        _ask_owner(lambda owner: owner.bind_image_key(id=key.id, digest=made.digest))
        image = _send(client, name, made, bar)
    if output is Format.JSON:
        print_thing(image, output)
    said(f"image {name} imported: {made.digest}", output)


def _make_way(client: Client, name: str) -> None:
    """What an interrupted import left under this name is of no use: each is encrypted with a key of its own.

    Raises:
        Conflict: there is a complete image of this name.
    """
    try:
        image = client.get(f"/images/{name}")
    except NotFound:
        return
    if image["complete"]:
        raise Conflict(f"there is an image {name} already", hint=f"supercloud image rm {name}")
    client.delete(f"/images/{name}")


def _ask_owner(ask: Callable[[RemoteOwner], Awaitable[T]]) -> T:
    async def asked() -> T:
        owner = RemoteOwner(Place.default().keystore_socket)
        try:
            return await ask(owner)
        finally:
            await owner.close()

    return asyncio.run(asked())


def _send(client: Client, name: str, made: Encrypted, bar: Bar) -> Any:
    image = client.post(
        "/images",
        {
            "name": name,
            "digest": made.digest,
            "size_bytes": made.size_bytes,
            "virtual_bytes": made.virtual_bytes,
        },
    )
    for left in reversed(range(_UPLOAD_TRIES)):
        sent: int = image["present_bytes"]

        def watch(more: int) -> None:
            nonlocal sent
            sent += more
            bar("uploading", sent / made.size_bytes)

        try:
            return image if image["complete"] else client.upload(made.digest, made.path, sent, watch)
        except Unavailable:  # the connection broke: what arrived is kept, and the rest is sent
            if not left:
                raise
            image = client.get(f"/images/{name}")
    raise AssertionError("the last try returns or raises")


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List images.

    Example: supercloud image ls
    """
    print_list("/images", _COLUMNS, output)


@app.command
def show(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Show one.

    Example: supercloud image show debian -o json
    """
    print_one(f"/images/{name}", output)


@app.command
def rm(name: Name, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that no volume is based on.

    Example: supercloud image rm debian
    """
    connect().delete(f"/images/{name}")
    said(f"image {name} removed", output, removed=name)
