"""The files that a blanket runs from, and the same as its image has them.

The root of a blanket is an overlay over the image's squashfs. The image is mounted once more, beside it: so
what is compared with is not what was there at a first look, but what the blanket was booted from.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
import time
from pathlib import Path

from supercloud.agent.teller import Teller
from supercloud.blanket import commands
from supercloud.blanket.places import RECORDING
from supercloud.model.errors import Failed
from supercloud.security.detectors import INTEGRITY
from supercloud.security.detectors.integrity import Integrity, Mark, differences
from supercloud.security.recording import recorded

ROOT, IMAGE = Path("/"), Path("/run/supercloud/image")
#: Files are measured so often, or seldomer where that would take more than this part of the time.
_MEASURE_S, _LONGEST_S, _PART = 10.0, 60.0, 0.02
_DEVICE = "/dev/vda"
#: Programs and what runs them; of libraries the folder that has nearly all.
OWN = ("usr/bin/", "usr/sbin/", "usr/libexec/", "usr/lib/supercloud/", "usr/lib/x86_64-linux-gnu/")
#: What else belongs to the image, though other files are put beside it.
_BESIDE = ("etc/runit/", "etc/service/")
_FLAT = frozenset({"usr/lib/x86_64-linux-gnu/"})


async def mount(image: Path = IMAGE) -> Path:
    """Where the image's own files are.

    Raises:
        Failed.
    """
    if not image.is_mount():
        image.mkdir(mode=0o700, parents=True, exist_ok=True)
        await commands.run("mount", "-t", "squashfs", "-o", "ro,nosuid,nodev,noexec", _DEVICE, str(image))
    return image


def marks(root: Path) -> dict[str, Mark]:
    """Of files and symbolic links; those that end while they are looked at are left out.

    Raises:
        Failed: there is nothing, so that it is no root.
    """
    found: dict[str, Mark] = {}
    for folder in (*OWN, *_BESIDE):
        _folder(root, folder, found, deep=folder not in _FLAT)
    if not found:
        raise Failed(f"{root} has no programs")
    return found


def _folder(root: Path, folder: str, found: dict[str, Mark], *, deep: bool) -> None:
    try:
        entries = list(os.scandir(root / folder))
    except OSError:
        return
    for entry in entries:
        name = folder + entry.name
        try:
            seen = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISDIR(seen.st_mode):
            # What runit keeps of a service is its own.
            if deep and entry.name != "supervise":
                _folder(root, name + "/", found, deep=True)
        elif stat.S_ISREG(seen.st_mode) or stat.S_ISLNK(seen.st_mode):
            found[name] = Mark(seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_ctime_ns)


def same(path: str, root: Path, image: Path) -> bool:
    """Whether what is in a file is what the image has there."""
    try:
        return _content(root / path) == _content(image / path)
    except OSError:
        return False


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(path.readlink())
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


async def watch_files(teller: Teller, root: Path) -> None:
    """Until cancelled. So often that looking takes a small part of the time, emulated or not.

    Raises:
        Failed: there is no image to compare with.
    """
    image = await mount()
    known = await asyncio.to_thread(marks, image)
    watch = recorded(Integrity(secrets.token_hex(8)), INTEGRITY, RECORDING)
    while True:
        before = time.process_time()
        now = await asyncio.to_thread(marks, root)
        differ = differences(known, now, OWN)
        teller.tell(watch.look(differ, lambda path: same(path, root, image), time.time()))
        took = time.process_time() - before
        await asyncio.sleep(min(max(took / _PART, _MEASURE_S), _LONGEST_S))
