"""A full disk costs nothing that was there, is said in one line, and does no harm once there is room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supercloud.agent import images as agents_images
from supercloud.model.errors import Exhausted
from supercloud.services import images

pytestmark = pytest.mark.unit

#: Fills a file system of 4 MiB with rows, of which the last ones find no room until a file is removed.
_PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from sqlalchemy import func, select
from supercloud.model.errors import SupercloudError
from supercloud.services.store.engine import Store
from supercloud.services.store.tables import Meta

async def main(folder):
    url, filler = f"sqlite:///{folder}/supercloud.db", folder / "filler"
    store = await Store.open(url)
    filler.write_bytes(bytes(1 << 20))
    kept, said = 0, None
    while said is None:
        try:
            async with store.write() as session:
                session.add(Meta(key=f"full{kept}", value="x" * 50_000))
            kept += 1
        except SupercloudError as error:
            said = [error.code, error.message]
    async with store.read() as session:
        seen = await session.scalar(select(func.count()).where(Meta.key.startswith("full")))
    filler.unlink()
    async with store.write() as session:
        session.add(Meta(key="after", value="y" * 50_000))
    await store.close()
    store = await Store.open(url)
    async with store.read() as session:
        found = await session.scalar(select(func.count()).where(Meta.key.startswith("full")))
        after = await session.get(Meta, "after")
    print(json.dumps({"said": said, "kept": kept, "seen": seen, "found": found, "after": after is not None}))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_store_on_a_full_disk_keeps_what_it_has_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mounted = f'mount -t tmpfs -o size=4m none {tmp_path} && exec "$@"'
    argv = [*own, "sh", "-c", mounted, "sh", sys.executable, "-c", _PROGRAM, str(tmp_path)]
    ended = subprocess.run(argv, check=True, capture_output=True, text=True)
    found = json.loads(ended.stdout)
    assert found.pop("said") == [Exhausted.code, "the store's disk is full"]
    kept = found.pop("kept")
    assert kept > 10
    assert found == {"seen": kept, "found": kept, "after": True}


def test_an_image_that_finds_no_room_is_said_to() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(Exhausted, match="cannot write the image: No space left on device"):
            images._write(full, b"content")
        with pytest.raises(Exhausted, match="the blanket's disk takes no more: No space left on device"):
            agents_images._write_all(full, b"content")
    finally:
        os.close(full)
