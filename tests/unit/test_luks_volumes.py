"""LuksVolumes over the real qemu-img: a backup is the whole content under its own key; nothing else stays."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supercloud import images
from supercloud.blanket.keyring import Keyring
from supercloud.blanket.places import Places
from supercloud.blanket.volumes import LuksVolumes
from supercloud.model.errors import Exhausted, Failed, InvalidInput, NotFound
from supercloud.model.names import MIB, new_id
from supercloud.ports.agent import VolumeReport
from supercloud.ports.hypervisor import Reading, Watch

pytestmark = pytest.mark.unit
SIZE = 4 * MIB
BASE = "sha256:" + "b" * 64
CLUSTER = 64 << 10
UNLUCKY = "qemu-img: x.part: Unable to get accurate CPU usage"


class Secrets:
    """What the hypervisor knows."""

    def __init__(self) -> None:
        self.told: dict[str, bytes] = {}

    async def tell(self, secret: str, key: bytes) -> None:
        self.told[secret] = key

    async def forget(self, secret: str) -> None:
        self.told.pop(secret, None)


def passphrase() -> bytes:
    return secrets.token_hex(32).encode()


def repeated(word: bytes) -> bytes:
    """A cluster of it."""
    return (word * CLUSTER)[:CLUSTER]


class Disk:
    """A volume over a base image: half of what it holds is in each."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(run=folder / "run", data=folder / "data")
        self.places.make(user=None)
        self.folder = folder
        secrets = Secrets()
        self.told = secrets.told
        self.volumes = LuksVolumes(self.places, Keyring(self.places.keys), secrets)
        self.volume, self.copy = new_id(), new_id()
        self.key, self.base_key = passphrase(), passphrase()
        self.heard: list[float] = []

    def holding(self, key: bytes) -> set[str]:
        """Whose files have it, of those in memory and those on the disk."""
        return {
            root.name
            for root in (self.places.run, self.places.data)
            for path in root.rglob("*")
            if path.is_file() and key in path.read_bytes()
        }

    async def make(self) -> None:
        base = new_id()
        await self.volumes.make(base, base, SIZE, self.base_key, base=None, base_key=None)
        made = self.places.copy(base, base)
        with self.secret(self.base_key, "base") as opens:
            self.write(*opens, self.layer(made, "base"), b"below", at=0)
            self.write(*opens, self.layer(made, "base"), b"hidden", at=CLUSTER)
        made.rename(self.places.image(BASE))
        await self.volumes.make(
            self.volume, self.copy, SIZE, self.key, base=BASE, base_key=self.base_key
        )  # fmt: skip
        with self.secret(self.key, "key") as key, self.secret(self.base_key, "base") as opens:
            self.write(*key, *opens, self.opened, b"above", at=CLUSTER)

    def write(self, *words: str | bytes, at: int) -> None:
        """One cluster of the last of `words`, repeated, into the disk before it."""
        *opened, word = words
        pattern = self.folder / "pattern"
        pattern.write_bytes(word)
        self.qemu("qemu-io", *opened, "-c", f"write -s {pattern} {at} {CLUSTER}")

    @property
    def content(self) -> bytes:
        return (repeated(b"below") + repeated(b"above")).ljust(SIZE, b"\0")

    @property
    def opened(self) -> str:
        base = self.layer(self.places.image(BASE), "base")
        return self.layer(self.places.copy(self.volume, self.copy), "key", backing=base)

    @staticmethod
    def layer(path: Path, secret: str, *, backing: str | None = None) -> str:
        layer = {
            "driver": "qcow2",
            "encrypt": {"format": "luks", "key-secret": secret},
            "file": {"driver": "file", "filename": str(path)},
            "backing": json.loads(backing.removeprefix("json:")) if backing else None,
        }
        return "json:" + json.dumps(layer)

    @contextmanager
    def secret(self, key: bytes, name: str) -> Iterator[tuple[str, str]]:
        path = self.folder / f"{name}.secret"
        path.write_bytes(key)
        yield "--object", f"secret,id={name},file={path}"
        path.unlink()

    def qemu(self, *command: str) -> bytes:
        return subprocess.run(command, check=True, capture_output=True).stdout

    async def back_up(self, into: str, key: bytes, reading: Reading | None = None) -> VolumeReport:
        return await self.volumes.back_up(
            self.volume, self.copy, self.key, base=BASE, base_key=self.base_key,
            into=into, into_key=key, watch=self.heard.append, reading=reading,
        )  # fmt: skip

    def read(self, copy: str, key: bytes) -> bytes:
        """What a copy holds by itself, opened with nothing but its own key."""
        out = self.folder / "read.raw"
        path = self.places.copy(self.volume, copy)
        with self.secret(key, "key") as opens:
            source = f"driver=qcow2,encrypt.key-secret=key,file.filename={path}"
            self.qemu("qemu-img", "convert", *opens, "--image-opts", source, "-O", "raw", str(out))
        return out.read_bytes()

    def left(self) -> set[str]:
        """Files of the blanket's besides the volume and its base."""
        files = {path for path in self.folder.glob("*/**/*") if path.is_file()}
        return {
            path.name
            for path in files - {self.places.copy(self.volume, self.copy), self.places.image(BASE)}
        }  # fmt: skip


@pytest.fixture
async def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path)
    await made.make()
    return made


async def test_a_backup_holds_everything_under_its_own_key_alone(disk: Disk) -> None:
    into, key = new_id(), passphrase()
    report = await disk.back_up(into, key)
    assert (report.copy, report.size_bytes) == (into, SIZE)
    assert disk.read(into, key) == disk.content
    assert disk.heard[-1] == 1.0 and disk.heard == sorted(disk.heard)
    path = disk.places.copy(disk.volume, into)
    assert disk.left() == {path.name}, "no part of it, and no key"
    assert not any(repeated(word)[:10] in path.read_bytes() for word in (b"above", b"below"))
    said = json.loads(disk.qemu("qemu-img", "info", "--output=json", str(path)))
    assert said["encrypted"] and "backing-filename" not in said
    with pytest.raises(subprocess.CalledProcessError):
        disk.read(into, disk.key)

    before = path.read_bytes()
    await disk.back_up(into, key)
    assert path.read_bytes() == before, "there already: as it is"
    await disk.volumes.remove(disk.volume, into)
    assert not disk.left()


async def test_keys_are_in_memory_only(disk: Disk) -> None:
    into = passphrase()
    await disk.back_up(new_id(), into)
    assert disk.holding(into) == set(), "a backup's is nobody's here"
    await disk.volumes.open(disk.volume, disk.copy, disk.key, base=BASE, base_key=disk.base_key)
    assert [disk.holding(one) for one in (disk.key, disk.base_key)] == [{"run"}, {"run"}]


def test_what_must_not_reach_a_disk_is_below_run_which_is_memory_in_a_blanket() -> None:
    places = Places()
    assert {path.parts[:2] for path in (places.keys, places.seeds, places.consoles)} == {("/", "run")}
    recipe = Path(images.__file__).parent / "recipe" / "blanket"
    boot, init = ((recipe / name).read_text() for name in ("boot", "init"))
    assert re.findall(r"^mount -t (\w+) .* /run$", boot, re.MULTILINE) == ["tmpfs"]
    assert "swapon" not in boot + init


@pytest.mark.parametrize("form", ["raw", "qcow2"])
async def test_what_tools_made_is_taken_whole_and_encrypted(disk: Disk, form: str) -> None:
    """With what is below it; the file itself stays as it is."""
    below, top = disk.folder / "below.raw", disk.folder / f"old.{form}"
    below.write_bytes(repeated(b"below").ljust(SIZE, b"\0"))
    if form == "raw":
        shutil.copy(below, top)
    else:
        disk.qemu("qemu-img", "create", "-q", "-f", form, "-b", str(below), "-F", "raw", str(top))
    disk.qemu("qemu-io", "-f", form, "-c", f"write -P 7 {CLUSTER} {CLUSTER}", str(top))
    before, into, key = top.read_bytes(), new_id(), passphrase()
    taken = {"volume": disk.volume, "into": into, "into_key": key}
    report = await disk.volumes.capture(top, form, watch=disk.heard.append, **taken)  # type: ignore[arg-type]
    assert (report.copy, report.size_bytes, disk.heard[-1]) == (into, SIZE, 1.0)
    assert disk.read(into, key) == (repeated(b"below") + b"\7" * CLUSTER).ljust(SIZE, b"\0")
    path = disk.places.copy(disk.volume, into)
    assert repeated(b"below")[:10] not in path.read_bytes() and disk.holding(key) == set()
    assert top.read_bytes() == before and path.name in disk.left()


async def test_what_runs_is_not_taken(disk: Disk) -> None:
    top = disk.folder / "old.qcow2"
    disk.qemu("qemu-img", "create", "-q", "-f", "qcow2", str(top), str(SIZE))
    pipe = asyncio.subprocess.PIPE
    holder = await asyncio.create_subprocess_exec("qemu-io", str(top), stdin=pipe, stdout=pipe, stderr=pipe)
    assert holder.stdin and holder.stdout
    try:
        holder.stdin.write(b"write 0 512\n")
        await holder.stdout.readline()
        with pytest.raises(Failed, match="lock"):
            await disk.volumes.capture(
                top,
                "qcow2",
                volume=disk.volume,
                into=new_id(),
                into_key=passphrase(),
                watch=disk.heard.append,
            )
    finally:
        holder.stdin.close()  # it ends with its commands
        await holder.communicate()
    assert not disk.left()


async def test_what_is_in_use_is_read_by_who_uses_it(disk: Disk) -> None:
    into, key = new_id(), passphrase()

    async def reading(part: Path, secret: str, watch: Watch) -> None:
        assert secret == into and disk.told[secret] == key
        with disk.secret(key, "into") as opens:
            disk.write(*opens, disk.layer(part, "into"), b"of one moment", at=0)
        watch(1.0)

    await disk.back_up(into, key, reading)
    assert disk.read(into, key) == repeated(b"of one moment").ljust(SIZE, b"\0")
    assert into not in disk.told and disk.left() == {disk.places.copy(disk.volume, into).name}


async def test_what_is_not_read_to_its_end_leaves_nothing(disk: Disk) -> None:
    into = new_id()

    async def reading(part: Path, secret: str, watch: Watch) -> None:
        assert part.exists()
        raise Failed("the instance ended")

    with pytest.raises(Failed, match="ended"):
        await disk.back_up(into, passphrase(), reading)
    assert into not in disk.told and not disk.left()


async def test_what_somebody_writes_to_is_not_read(disk: Disk) -> None:
    with disk.secret(disk.key, "key") as key, disk.secret(disk.base_key, "base") as base:
        writer = await asyncio.create_subprocess_exec(
            "qemu-io", *key, *base, disk.opened,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdin and writer.stdout
        writer.stdin.write(b"write 0 512\n")
        assert b"wrote" in await writer.stdout.readline()
        try:
            with pytest.raises(Failed, match="lock"):
                await disk.back_up(new_id(), passphrase())
        finally:
            writer.stdin.close()
            await writer.wait()
    assert not disk.left()


async def test_what_cannot_be_leaves_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput):
        await disk.back_up(disk.copy, passphrase())
    monkeypatch.setattr("supercloud.blanket.volumes._SPARE_BYTES", 1 << 60)
    with pytest.raises(Exhausted, match="no room"):
        await disk.back_up(new_id(), passphrase())
    monkeypatch.undo()
    disk.base_key = passphrase()
    with pytest.raises(Failed, match="key"):
        await disk.back_up(new_id(), passphrase())
    disk.copy, here = new_id(), disk.copy
    with pytest.raises(NotFound):
        await disk.back_up(new_id(), passphrase())
    disk.copy = here
    assert not disk.left()


async def test_given_up_nobody_writes_any_more_and_nothing_is_left(disk: Disk) -> None:
    begun, into = asyncio.Event(), new_id()

    def watch(_: float) -> None:
        begun.set()

    task = asyncio.create_task(
        disk.volumes.back_up(
            disk.volume, disk.copy, disk.key, base=BASE, base_key=disk.base_key,
            into=into, into_key=passphrase(), watch=watch,
        )
    )  # fmt: skip
    async with asyncio.timeout(30):
        await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert disk.left() <= {f"{disk.volume}.{into}.qcow2"}, "whole, or not at all"
    processes = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    assert not any(into.encode() in words for words in processes)


def test_what_a_former_agent_only_began_is_swept(tmp_path: Path) -> None:
    places = Places(run=tmp_path / "run", data=tmp_path / "data")
    places.make(user=None)
    whole, part = places.copy("v", "c"), places.copy("v", "d").with_suffix(".part")
    whole.touch()
    part.touch()
    LuksVolumes(places, Keyring(places.keys), Secrets()).sweep()
    assert whole.exists() and not part.exists()


async def test_a_measurement_that_fails_for_lack_of_luck_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU gives up where the kernel counted no time in user mode, ten times in a row on a busy machine."""
    real, failures = shutil.which("qemu-img"), tmp_path / "failures"
    failures.write_text("x" * 10)
    tool = tmp_path / "bin" / "qemu-img"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        f'if [ -s {failures} ]; then truncate -s -1 {failures}; echo "{UNLUCKY}" >&2; exit 1; fi\n'
        f'exec {real} "$@"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    disk = Disk(tmp_path)
    made = await disk.volumes.make(disk.volume, disk.copy, SIZE, disk.key, base=None, base_key=None)
    assert made.size_bytes == SIZE and failures.stat().st_size == 0


async def restored(disk: Disk, snapshot: str | None, size: int = SIZE) -> VolumeReport:
    return await disk.volumes.restore(disk.volume, disk.copy, size, disk.key, snapshot=snapshot, base=BASE)


def now(disk: Disk) -> bytes:
    """What a guest would read."""
    out = disk.folder / "now.raw"
    with disk.secret(disk.key, "key") as key, disk.secret(disk.base_key, "base") as base:
        disk.qemu("qemu-img", "convert", *key, *base, disk.opened, "-O", "raw", str(out))
    return out.read_bytes()


def overwritten(disk: Disk, word: bytes) -> None:
    with disk.secret(disk.key, "key") as key, disk.secret(disk.base_key, "base") as base:
        disk.write(*key, *base, disk.opened, word, at=0)


async def test_it_goes_back_to_a_snapshot_however_often_it_is_asked_and_grown_meanwhile(disk: Disk) -> None:
    await disk.volumes.open(disk.volume, disk.copy, disk.key, base=BASE, base_key=disk.base_key)
    await disk.volumes.snapshot(disk.volume, "good")
    overwritten(disk, b"evil")
    await disk.volumes.resize(disk.volume, 2 * SIZE)
    for _ in range(2):
        report = await restored(disk, "good", 2 * SIZE)
        assert (report.snapshots, report.size_bytes) == (("good",), 2 * SIZE)
        assert now(disk) == disk.content.ljust(2 * SIZE, b"\0")
    with pytest.raises(NotFound, match="no snapshot other"):
        await restored(disk, "other")
    assert disk.holding(disk.key) == {"run"}, "as an open volume's is, and nowhere else"


async def test_it_goes_back_to_its_image_under_its_own_key_and_loses_its_snapshots(disk: Disk) -> None:
    await disk.volumes.open(disk.volume, disk.copy, disk.key, base=BASE, base_key=disk.base_key)
    await disk.volumes.snapshot(disk.volume, "good")
    for _ in range(2):
        assert (await restored(disk, None)).snapshots == ()
        assert now(disk) == (repeated(b"below") + repeated(b"hidden")).ljust(SIZE, b"\0")
    overwritten(disk, b"fresh")
    assert now(disk)[:CLUSTER] == repeated(b"fresh"), "it is written to as ever"
    with pytest.raises(NotFound, match="begins with no image"):
        await disk.volumes.restore(disk.volume, disk.copy, SIZE, disk.key, snapshot=None, base=None)
    with pytest.raises(NotFound, match="not in this blanket"):
        await disk.volumes.restore(disk.volume, new_id(), SIZE, disk.key, snapshot=None, base=BASE)


async def test_what_a_process_has_open_goes_back_to_no_snapshot(disk: Disk) -> None:
    await disk.volumes.open(disk.volume, disk.copy, disk.key, base=BASE, base_key=disk.base_key)
    await disk.volumes.snapshot(disk.volume, "good")
    with disk.secret(disk.key, "key") as key, disk.secret(disk.base_key, "base") as base:
        writer = await asyncio.create_subprocess_exec(
            "qemu-io", *key, *base, disk.opened,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdin and writer.stdout
        writer.stdin.write(b"write 0 512\n")
        assert b"wrote" in await writer.stdout.readline()
        try:
            with pytest.raises(Failed, match="lock"):
                await restored(disk, "good")
        finally:
            writer.stdin.close()
            await writer.wait()
