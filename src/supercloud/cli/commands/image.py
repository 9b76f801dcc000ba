"""`supercloud image`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from cyclopts import App

from supercloud.cli.output import Bar, Format, print_thing, progress
from supercloud.cli.session import Output, connect, said
from supercloud.cli.session import ls as print_list
from supercloud.cli.session import show as print_one
from supercloud.client import Client, Place
from supercloud.images.importer import Encrypted, ImageFormat, check, encrypt

app = App(name="image", help="Bootable disks.")
_COLUMNS = ("name", "size_bytes", "virtual_bytes", "complete", "digest")


@app.command(name="import")
def import_image(
    file: Path, /, *, name: str, format: ImageFormat | None = None, output: Output = Format.TABLE
) -> None:
    """Check a disk image, encrypt it here, and hand the encrypted file to the control plane.

    Example: supercloud image import debian-12.qcow2 --name debian
    """
    source = check(file, format)
    client = connect()
    with (
        progress(f"importing {name}", quiet=output is Format.JSON) as bar,
        tempfile.TemporaryDirectory(prefix="supercloud-import-") as scratch,
    ):
        made = asyncio.run(_encrypt(source, Path(scratch), bar))
        image = _send(client, name, made, bar)
    if output is Format.JSON:
        print_thing(image, output)
    said(f"image {name} imported: {made.digest}", output)


async def _encrypt(source: Any, scratch: Path, bar: Bar) -> Encrypted:
    """The key is asked of the owner's key store directly; the control plane never sees it."""
    from supercloud.keystore.client import RemoteOwner

    owner = RemoteOwner(Place.default().keystore_socket)
    try:
        key = await owner.new_image_key()
        made = await asyncio.to_thread(
            encrypt, source, key.passphrase, scratch, lambda done: bar("encrypting", done)
        )
        await owner.bind_image_key(id=key.id, digest=made.digest)
    finally:
        await owner.close()
    return made


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
    sent = 0

    def watch(more: int) -> None:
        nonlocal sent
        sent += more
        bar("uploading", sent / made.size_bytes)

    return client.upload(made.digest, made.path, 0, watch) if not image["complete"] else image


@app.command
def ls(*, output: Output = Format.TABLE) -> None:
    """List images."""
    print_list("/images", _COLUMNS, output)


@app.command
def show(name: str, /, *, output: Output = Format.TABLE) -> None:
    """Show one."""
    print_one(f"/images/{name}", output)


@app.command
def rm(name: str, /, *, output: Output = Format.TABLE) -> None:
    """Remove one that no volume is based on."""
    connect().delete(f"/images/{name}")
    said(f"image {name} removed", output)
