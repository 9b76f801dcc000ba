"""ports.hypervisor.Volumes over qemu-img: LUKS qcow2 files, each copy with a key of its own.

A copy is a file; what of it the hypervisor may open is noted on tmpfs, beside a link of one name in every
blanket. Keys are in the keyring and in libvirt's secrets; qemu-img reads them from the keyring's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pydantic import TypeAdapter, ValidationError

from supercloud.blanket.keyring import Keyring, image_secret
from supercloud.blanket.places import Places
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound, SupercloudError
from supercloud.model.names import Digest, Id, Name, SizeBytes
from supercloud.ports.agent import VolumeReport
from supercloud.ports.hypervisor import Reading, VolumeSource, Watch

#: Keys are 256 random bits: stretching them would add most of a minute to each opening and no strength.
_ITERATION_MS: Final = 10
_TOOL_S: Final = 300.0
#: Reading and writing a whole volume.
_CONVERT_S: Final = 6 * 3600.0
#: Of the disk, left to the instances that write to it meanwhile.
_SPARE_BYTES: Final = 256 << 20
_PERCENT: Final = re.compile(rb"\(([0-9.]+)/100%\)")
#: QEMU measures how fast it hashes by its thread's time in user mode, which a busy kernel may count as none.
_UNLUCKY, _TRIES = "accurate CPU usage", 50

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

    def sweep(self) -> None:
        """At the agent's start: what a former one had only begun to write is of no use."""
        for part in self._places.volumes.glob("*.part"):
            part.unlink(missing_ok=True)

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
            if path.exists():
                return await self._report(path)
            await self._create(path, size_bytes, key, base)
        # What it holds is known; asking qemu-img would cost a migration half a second under emulation.
        allocated = path.stat().st_blocks * 512
        return VolumeReport(volume=volume, copy=copy, size_bytes=size_bytes, allocated_bytes=allocated)

    async def _create(self, path: Path, size_bytes: SizeBytes, key: bytes, base: Digest | None) -> None:
        backing = ["-u", "-b", str(self.image_path(base)), "-F", "qcow2"] if base else []
        with _whole_or_not(path) as part, self._loose(key, path.stem) as secret:
            await _format(part, size_bytes, secret, *backing)

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
                await qemu_img("resize", "-q", *self._secret(volume), _alone(path), str(size_bytes))
            return await self._report(path)

    async def snapshot(self, volume: Id, snapshot: Name) -> VolumeReport:
        """Inside the copy's own file, so encrypted by its key. There already: fine."""
        async with self._lock:
            path = self._need(volume)
            if snapshot not in (await self._report(path)).snapshots:
                await qemu_img("snapshot", "-q", *self._secret(volume), "-c", snapshot, _alone(path))
            return await self._report(path)

    async def restore(
        self,
        volume: Id,
        copy: Id,
        size_bytes: SizeBytes,
        key: bytes,
        *,
        snapshot: Name | None,
        base: Digest | None,
    ) -> VolumeReport:
        """Whole or not: to its image by another file in its place, to a snapshot by qemu-img, which a repeat
        finishes.

        QEMU's own locks keep what a process has open from being changed.

        Raises:
            NotFound: no such copy here, no such snapshot, or no base. Failed: with qemu-img's words.
        """
        path = self._places.copy(volume, copy)
        async with self._lock:
            if not path.exists():
                raise NotFound(f"copy {copy} of volume {volume} is not in this blanket")
            if snapshot is None:
                if base is None:
                    raise NotFound(f"volume {volume} begins with no image")
                await self._create(path, size_bytes, key, base)
                return await self._report(path)
            if snapshot not in (await self._report(path)).snapshots:
                raise NotFound(f"volume {volume} has no snapshot {snapshot} in this blanket")
            with self._loose(key, f"{copy}-back") as secret:
                await qemu_img("snapshot", "-q", *secret, "-a", snapshot, _alone(path))
                if (await self._report(path)).size_bytes < size_bytes:  # it has grown since
                    await qemu_img("resize", "-q", *secret, _alone(path), str(size_bytes))
            return await self._report(path)

    async def back_up(
        self,
        volume: Id,
        copy: Id,
        key: bytes,
        *,
        base: Digest | None,
        base_key: bytes | None,
        into: Id,
        into_key: bytes,
        watch: Watch,
        reading: Reading | None = None,
    ) -> VolumeReport:
        """Another copy of what the copy holds now, flattened. There already: fine, as it is.

        QEMU's own locks keep a copy that somebody writes to from being read by anybody but its QEMU.

        Raises:
            NotFound: no such copy here. Exhausted: no room. Failed: with qemu-img's words.
        """
        source, target = self._places.copy(volume, copy), self._places.copy(volume, into)
        if not source.exists():
            raise NotFound(f"copy {copy} of volume {volume} is not in this blanket")
        if into == copy:
            raise InvalidInput("a copy cannot be its own backup")
        if not target.exists():
            below = self.image_path(base) if base else None
            size_bytes = (await self._report(source)).size_bytes
            _need_room(target.parent, size_bytes, source, below)
            with _whole_or_not(target) as part:
                if reading is not None:
                    await self._fill(part, size_bytes, into, into_key, lambda: reading(part, into, watch))
                else:
                    with (
                        self._loose(key, f"{into}-from", "key") as opens,
                        self._loose(base_key or b"", f"{into}-base", "base") as opens_base,
                        self._loose(into_key, f"{into}-into", "into") as seals,
                    ):
                        await _convert(_chain(source, below), part, [*opens, *opens_base, *seals], watch)
        return await self._report(target)

    async def capture(
        self, path: Path, form: str, *, volume: Id, into: Id, into_key: bytes, watch: Watch
    ) -> VolumeReport:
        """A copy, fit to be an image, of a disk that is none of ours, flattened. There already: fine.

        QEMU's own locks keep it from being run meanwhile. `form`: "raw" or "qcow2", which is never guessed.

        Raises:
            Exhausted: no room. Failed: with qemu-img's words.
        """
        target = self._places.copy(volume, into)
        if not target.exists():
            source = "json:" + json.dumps({"driver": form, "file": {"driver": "file", "filename": str(path)}})
            said = json.loads(await qemu_img("info", "--output=json", source))
            _need_room(target.parent, int(said["virtual-size"]), path)
            with _whole_or_not(target) as part, self._loose(into_key, f"{into}-into", "into") as seals:
                await _convert(source, part, seals, watch)
        return await self._report(target)

    async def _fill(
        self,
        part: Path,
        size_bytes: SizeBytes,
        into: Id,
        key: bytes,
        reading: Callable[[], Awaitable[None]],
    ) -> None:
        """By the QEMU that has the source open; it knows the key no longer than that takes."""
        with self._loose(key, f"{into}-into") as seals:
            await _format(part, size_bytes, seals)
        await self._secrets.tell(into, key)
        try:
            await reading()
        finally:
            await self._secrets.forget(into)

    async def list(self) -> list[VolumeReport]:
        """Every whole copy in this blanket, open or not; what cannot be read is left out."""
        found = []
        for path in sorted(self._places.volumes.glob("*.qcow2")):
            with contextlib.suppress(SupercloudError):
                found.append(await self._report(path))
        return found

    def copy_path(self, volume: Id, copy: Id) -> Path:
        return self._places.copy(volume, copy)

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
    def _loose(self, key: bytes, name: str, known_as: str = "key") -> Iterator[Arguments]:
        """The key as a file for as long as it takes; it is opened, under its own name, later."""
        name = f"new-{name}"
        self._keyring.put(name, key)
        try:
            yield ["--object", f"secret,id={known_as},file={self._keyring.path(name)}"]
        finally:
            self._keyring.drop(name)

    async def _report(self, path: Path) -> VolumeReport:
        said = json.loads(await qemu_img("info", "-U", "--output=json", str(path)))
        volume, _, copy = path.stem.partition(".")
        return VolumeReport(
            volume=volume,
            copy=copy,
            size_bytes=int(said["virtual-size"]),
            allocated_bytes=int(said.get("actual-size", 0)),
            snapshots=tuple(one["name"] for one in said.get("snapshots", ())),
        )


def _luks(secret: str) -> str:
    """Options of a new file under the key that qemu-img knows as `secret`."""
    return f"encrypt.format=luks,encrypt.key-secret={secret},encrypt.iter-time={_ITERATION_MS}"


def _alone(path: Path) -> str:
    """The copy without its base, whose key changing its size or its snapshots does not need."""
    return "json:" + json.dumps(_layer(path, "key", None))


def _chain(path: Path, base: Path | None) -> str:
    """The copy with its base, whose key is the secret `base`."""
    return "json:" + json.dumps(_layer(path, "key", _layer(base, "base", None) if base else None))


def _layer(path: Path, secret: str, backing: object) -> dict[str, object]:
    return {
        "driver": "qcow2",
        "encrypt": {"format": "luks", "key-secret": secret},
        "backing": backing,
        "file": {"driver": "file", "filename": str(path)},
    }


def _need_room(folder: Path, size_bytes: int, *layers: Path | None) -> None:
    """
    Raises:
        Exhausted: what the layers hold might not fit beside them.
    """
    held = sum(layer.stat().st_blocks * 512 for layer in layers if layer is not None)
    have = os.statvfs(folder)
    if have.f_bavail * have.f_frsize < min(size_bytes, held) + _SPARE_BYTES:
        raise Exhausted(
            f"the blanket's disk has no room for {min(size_bytes, held) >> 20} MiB more",
            hint="remove a volume, or add a blanket with a larger disk",
        )


@contextlib.contextmanager
def _whole_or_not(path: Path) -> Iterator[Path]:
    """Another name to write under, until it is whole."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        yield part
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


async def _format(part: Path, size_bytes: SizeBytes, secret: Arguments, *backing: str) -> None:
    """An empty file under the key that qemu-img knows as `key`."""
    await qemu_img(
        *("create", "-q", "-f", "qcow2", *backing, *secret),
        *("-o", _luks("key"), str(part), str(size_bytes)),
    )


async def _convert(source: str, part: Path, secrets: Arguments, watch: Watch) -> None:
    """It ends with us: a restarted agent finds nobody writing to what it writes anew."""
    await qemu_img(
        *("convert", "-p", *secrets, "-O", "qcow2", "-o", _luks("into"), source, str(part)),
        before=("setpriv", "--pdeathsig", "KILL", "--"),
        seconds=_CONVERT_S,
        watch=watch,
    )


async def qemu_img(
    *arguments: str,
    before: tuple[str, ...] = (),
    seconds: float = _TOOL_S,
    watch: Watch | None = None,
) -> str:
    """What it printed; `watch` hears the share done that it prints.

    Raises:
        Exhausted: the disk is full. Failed: with its words.
    """
    for _ in range(_TRIES):
        status, out, said = await _run([*before, "qemu-img", *arguments], seconds, watch)
        reason = " ".join(said.decode(errors="replace").split())[-300:]
        if status == 0 or _UNLUCKY not in reason:
            break
    if status == 0:
        return out.decode()
    if "No space left" in reason:
        raise Exhausted(
            "the blanket's disk is full", hint="remove a volume, or add a blanket with a larger disk"
        )
    raise Failed(f"qemu-img {arguments[0]}: {reason}")


async def _run(command: list[str], seconds: float, watch: Watch | None) -> tuple[int, bytes, bytes]:
    """Its status, and what it printed and complained. Its process is gone when this returns or raises."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout and process.stderr  # noqa: S101 - pipes were asked for
    try:
        async with asyncio.timeout(seconds):
            out, said = await asyncio.gather(_heard(process.stdout, watch), process.stderr.read())
            return await process.wait(), out, said
    except TimeoutError as error:
        raise Failed(f"{' '.join(command[:2])} did not end") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _heard(printed: asyncio.StreamReader, watch: Watch | None) -> bytes:
    out = bytearray()
    while data := await printed.read(65536):
        out += data
        if watch is not None and (shares := _PERCENT.findall(data)):
            watch(float(shares[-1]) / 100)
    return bytes(out)
