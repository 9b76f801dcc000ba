"""The files of blanket images, for blankets that run others inside them: fetched by digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from supercloud.model.errors import NotFound
from supercloud.model.names import Digest
from supercloud.ports.machines import MachineFile, MachineImage
from supercloud.ports.platform import BlanketFiles


class OwnBlanketFiles:
    """Over ports.platform.BlanketImages.files; each file is read once for its digest."""

    def __init__(self, files: Callable[[Digest], BlanketFiles], current: Callable[[], Digest]) -> None:
        self._files = files
        self._current = current
        self._known: dict[tuple[Path, int], MachineFile] = {}
        self._paths: dict[Digest, Path] = {}
        self._turn = asyncio.Lock()

    async def image(self, image: Digest) -> MachineImage:
        """
        Raises:
            NotFound: no such image is here.
        """
        async with self._turn:
            files = await asyncio.to_thread(self._files, image)
            return MachineImage(
                kernel=await self._file(files.kernel),
                initrd=await self._file(files.initrd),
                root=await self._file(files.root),
                bundle=await self._file(files.bundle),
                cmdline=files.cmdline,
            )

    async def path(self, digest: Digest) -> Path | None:
        """The file of that digest. One that an agent fetches on after we were restarted is of an image that
        is made today, unless nobody asks for it any more."""
        if digest not in self._paths:
            try:
                await self.image(await asyncio.to_thread(self._current))
            except NotFound:
                return None
        return self._paths.get(digest)

    async def _file(self, path: Path) -> MachineFile:
        found = path.stat()
        key = (path, found.st_mtime_ns)
        if key not in self._known:
            digest = await asyncio.to_thread(_digest, path)
            self._known[key] = MachineFile(digest=digest, size_bytes=found.st_size)
            self._paths[digest] = path
        return self._known[key]


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
