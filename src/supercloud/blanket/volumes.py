"""ports.hypervisor.Volumes over qemu-img: LUKS qcow2 files, each copy with a key of its own.

A copy is a file; what of it the hypervisor may open is noted on tmpfs, beside a link of one name in every
blanket. Keys are in the keyring and in libvirt's secrets; qemu-img reads them from the keyring's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import TypeAdapter, ValidationError

from supercloud.blanket.keyring import Keyring, image_secret
from supercloud.blanket.places import Places
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound, SupercloudError
from supercloud.model.names import Digest, Id, Name, SizeBytes
from supercloud.ports.agent import VolumeReport
from supercloud.ports.hypervisor import VolumeSource

#: Keys are 256 random bits: stretching them would add most of a minute to each opening and no strength.
_ITERATION_MS: Final = 10
_TOOL_S: Final = 300.0

Arguments = list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Which copy of a volume this blanket uses, and over which base image."""

    volume: Id
    copy: Id
    base: Digest | None = None


_OPENED: Final = TypeAdapter(Opened)


class Secrets(Protocol):
    """Tells the hypervisor of a key, and has it forget one."""

    async def tell(self, secret: Id, key: bytes) -> None: ...

    async def forget(self, secret: Id) -> None: ...


class LuksVolumes:
    """The volumes of one blanket. A volume's secret has the volume's id, whichever the copy."""

    def __init__(self, places: Places, keyring: Keyring, secrets: Secrets) -> None:
        self._places = places
        self._keyring = keyring
        self._secrets = secrets
        self._lock = asyncio.Lock()

    # ------------------------------------------------------------ ports.hypervisor.Volumes

    async def make(
        self,
        volume: Id,
        copy: Id,
        size_bytes: SizeBytes,
        key: bytes,
        *,
        base: Digest | None,
        base_key: bytes | None,
    ) -> VolumeReport:
        """Empty above its base. There already: fine, as it is.

        Raises:
            Exhausted: no room. Failed: with qemu-img's words.
        """
        del base_key  # the base is named, not opened
        path = self._places.copy(volume, copy)
        async with self._lock:
            if not path.exists():
                await self._create(path, size_bytes, key, base)
        return await self._report(path)

    async def _create(self, path: Path, size_bytes: SizeBytes, key: bytes, base: Digest | None) -> None:
        part = path.with_suffix(".part")
        backing = ["-u", "-b", str(self.image_path(base)), "-F", "qcow2"] if base else []
        options = f"encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time={_ITERATION_MS}"
        with self._loose(key, path.stem) as secret:
            await _qemu_img(
                "create", "-q", "-f", "qcow2", *backing, *secret, "-o", options, str(part), str(size_bytes)
            )
        part.rename(path)

    async def open(
        self, volume: Id, copy: Id, key: bytes, *, base: Digest | None, base_key: bytes | None
    ) -> VolumeSource:
        """Raises: NotFound (no such copy here), Unavailable (libvirtd)."""
        path = self._places.copy(volume, copy)
        if not path.exists():
            raise NotFound(f"copy {copy} of volume {volume} is not in this blanket")
        async with self._lock:
            if base is not None and base_key is not None:
                await self._unlock(image_secret(base), base_key)
            await self._unlock(volume, key)
            self._note(Opened(volume=volume, copy=copy, base=base), path)
        return self.source(volume)

    async def _unlock(self, secret: Id, key: bytes) -> None:
        self._keyring.put(secret, key)
        await self._secrets.tell(secret, key)

    def _note(self, opened: Opened, path: Path) -> None:
        link = self._places.disk(opened.volume)
        fresh = link.with_name(f".{link.name}.part")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.rename(link)
        record = self._record(opened.volume)
        fresh = record.with_name(f".{record.name}.part")
        fresh.write_bytes(_OPENED.dump_json(opened))
        fresh.rename(record)

    async def remove(self, volume: Id, copy: Id) -> None:
        """Delete the copy and forget its key. Another copy of the volume that is open stays so."""
        async with self._lock:
            opened = self._opened(volume)
            if opened is not None and opened.copy == copy:
                self._record(volume).unlink(missing_ok=True)
                self._places.disk(volume).unlink(missing_ok=True)
                await self._lock_again(volume)
                if opened.base is not None and not self._uses(opened.base):
                    await self._lock_again(image_secret(opened.base))
            for path in (
                self._places.copy(volume, copy),
                self._places.copy(volume, copy).with_suffix(".part"),
            ):
                path.unlink(missing_ok=True)

    async def _lock_again(self, secret: Id) -> None:
        self._keyring.drop(secret)
        await self._secrets.forget(secret)

    async def resize(self, volume: Id, size_bytes: SizeBytes) -> VolumeReport:
        """Grow a volume that nothing has open.

        Raises:
            InvalidInput: it is larger. NotFound, Unavailable: it was not opened here.
        """
        async with self._lock:
            path = self._need(volume)
            now = (await self._report(path)).size_bytes
            if size_bytes < now:
                raise InvalidInput(
                    f"volume {volume} has {now} bytes and cannot shrink", hint="make a new one"
                )
            if size_bytes > now:
                await _qemu_img("resize", "-q", *self._secret(volume), _alone(path), str(size_bytes))
            return await self._report(path)

    async def snapshot(self, volume: Id, snapshot: Name) -> VolumeReport:
        """Inside the copy's own file, so encrypted by its key. There already: fine."""
        async with self._lock:
            path = self._need(volume)
            if snapshot not in (await self._report(path)).snapshots:
                await _qemu_img("snapshot", "-q", *self._secret(volume), "-c", snapshot, _alone(path))
            return await self._report(path)

    async def list(self) -> list[VolumeReport]:
        """Every whole copy in this blanket, open or not; what cannot be read is left out."""
        found = []
        for path in sorted(self._places.volumes.glob("*.qcow2")):
            with contextlib.suppress(SupercloudError):
                found.append(await self._report(path))
        return found

    def image_path(self, digest: Digest) -> Path:
        return self._places.image(digest)

    # ------------------------------------------------------------ for the hypervisor

    def source(self, volume: Id) -> VolumeSource:
        """How a volume is opened: the same names in every blanket, so that a domain can move as it is.

        Raises:
            NotFound: it is not open here.
        """
        opened = self._opened(volume)
        if opened is None:
            raise NotFound(f"volume {volume} is not open in this blanket")
        return VolumeSource(
            volume=volume,
            path=self._places.disk(volume),
            secret=volume,
            base_path=self.image_path(opened.base) if opened.base else None,
            base_secret=image_secret(opened.base) if opened.base else None,
        )

    # ------------------------------------------------------------ small things

    def _record(self, volume: Id) -> Path:
        return self._places.disk(volume).with_suffix(".json")

    def _opened(self, volume: Id) -> Opened | None:
        try:
            return _OPENED.validate_json(self._record(volume).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _uses(self, base: Digest) -> bool:
        volumes = (path.stem for path in self._places.disks.glob("*.json"))
        return any(opened.base == base for volume in volumes if (opened := self._opened(volume)))

    def _need(self, volume: Id) -> Path:
        if (opened := self._opened(volume)) is None:
            raise NotFound(f"volume {volume} is not open in this blanket", hint="start its instance once")
        return self._places.copy(volume, opened.copy)

    def _secret(self, volume: Id) -> Arguments:
        return ["--object", f"secret,id=key,file={self._keyring.need(volume)}"]

    @contextlib.contextmanager
    def _loose(self, key: bytes, name: str) -> Iterator[Arguments]:
        """The key as a file for as long as it takes; it is opened, under its own name, later."""
        name = f"new-{name}"
        self._keyring.put(name, key)
        try:
            yield ["--object", f"secret,id=key,file={self._keyring.path(name)}"]
        finally:
            self._keyring.drop(name)

    async def _report(self, path: Path) -> VolumeReport:
        said = json.loads(await _qemu_img("info", "-U", "--output=json", str(path)))
        volume, _, copy = path.stem.partition(".")
        return VolumeReport(
            volume=volume,
            copy=copy,
            size_bytes=int(said["virtual-size"]),
            allocated_bytes=int(said.get("actual-size", 0)),
            snapshots=tuple(one["name"] for one in said.get("snapshots", ())),
        )


def _alone(path: Path) -> str:
    """The copy without its base, whose key changing its size or its snapshots does not need."""
    return "json:" + json.dumps(
        {
            "driver": "qcow2",
            "encrypt": {"format": "luks", "key-secret": "key"},
            "backing": None,
            "file": {"driver": "file", "filename": str(path)},
        }
    )


async def _qemu_img(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TOOL_S):
            out, said = await process.communicate()
    except TimeoutError as error:
        raise Failed(f"qemu-img {arguments[0]} did not end") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return out.decode()
    reason = " ".join(said.decode(errors="replace").split())[-300:]
    if "No space left" in reason:
        raise Exhausted(
            "the blanket's disk is full", hint="remove a volume, or add a blanket with a larger disk"
        )
    raise Failed(f"qemu-img {arguments[0]}: {reason}")
