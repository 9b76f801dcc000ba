"""Broken, truncated and hostile disk images: a clear error each, in bounded time and space, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supercloud.images.header import ImageFormat, recognize
from supercloud.images.importer import USUAL, Checked, Encrypted, Limits, check, encrypt
from supercloud.model.errors import Exhausted, InvalidInput, SupercloudError
from supercloud.model.names import GIB, MIB

pytestmark = pytest.mark.unit
KEY = secrets.token_hex(32)


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk that would boot, with something at both ends."""
    path = tmp_path / "disk.raw"
    content = bytearray(4 * MIB)
    content[510:512] = b"\x55\xaa"
    content[MIB : MIB + 65536] = content[-65536:] = secrets.token_bytes(65536)
    path.write_bytes(content)
    return path


def made(disk: Path, format: str, *options: str) -> Path:
    path = disk.with_suffix(f".{format}")
    qemu_img("convert", "-f", "raw", "-O", format, *options, disk, path)
    return path


def imported(source: Checked, folder: Path, limits: Limits = USUAL) -> Encrypted:
    folder.mkdir(exist_ok=True)
    return encrypt(source, KEY, folder, lambda done: None, limits)


def opened(image: Path, into: Path) -> bytes:
    """What a guest would read of an encrypted image."""
    key = into / "key"
    key.write_text(KEY)
    source = {"driver": "qcow2", "encrypt.key-secret": "key", "file.filename": str(image)}
    qemu_img(
        "convert",
        "--object",
        f"secret,id=key,file={key}",
        "json:" + json.dumps(source),
        "-O",
        "raw",
        into / "opened",
    )
    return (into / "opened").read_bytes()


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("qcow2", ()),
        ("qcow2", ("-c",)),
        ("qcow2", ("-o", "compat=0.10")),
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vhdx", ()),
        ("vdi", ()),
    ],
)
def test_every_format_arrives_whole_and_encrypted(
    disk: Path, tmp_path: Path, format: str, options: tuple[str, ...]
) -> None:
    source = check(made(disk, format, *options))
    assert (source.format, source.virtual_bytes) == (format, 4 * MIB)
    shares: list[float] = []
    (tmp_path / "out").mkdir()
    arrived = encrypt(source, KEY, tmp_path / "out", shares.append)
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    written = arrived.path.read_bytes()
    assert len(written) == arrived.size_bytes
    content = disk.read_bytes()
    assert content[MIB : MIB + 64] not in written and KEY.encode() not in written
    assert opened(arrived.path, tmp_path) == content


def test_raw_is_taken_when_it_boots_or_when_told(disk: Path, tmp_path: Path) -> None:
    assert check(disk).format is ImageFormat.RAW
    data = tmp_path / "data"
    data.write_bytes(b"\x00" * MIB)
    with pytest.raises(InvalidInput, match="does not boot"):
        check(data)
    assert check(data, ImageFormat.RAW).virtual_bytes == MIB
    # A guest may write a header of another format at the start of its raw disk: those are bytes, no header.
    trap = tmp_path / "trap.raw"
    qemu_img("create", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", trap, "1M")
    assert opened(imported(check(trap, ImageFormat.RAW), tmp_path / "out").path, tmp_path)[:4] == b"QFI\xfb"


def _backing(disk: Path) -> Path:
    path = disk.with_name("backed.qcow2")
    qemu_img("create", "-f", "qcow2", "-b", disk, "-F", "raw", path)
    return path


def _json_backing(disk: Path) -> Path:
    path = made(disk, "qcow2")
    data = bytearray(path.read_bytes())
    name = b'json:{"driver": "host_device", "filename": "/dev/zero"}'
    data[8:20] = struct.pack(">QI", 1024, len(name))
    data[1024 : 1024 + len(name)] = name
    path.write_bytes(data)
    return path


def _data_file(disk: Path) -> Path:
    path = disk.with_name("split.qcow2")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={disk}.data,data_file_raw=on", path, "4M")
    return path


def _vmdk_text(extent: str) -> Callable[[Path], Path]:
    def make(disk: Path) -> Path:
        path = disk.with_name("text.vmdk")
        path.write_text(
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
            f'createType="monolithicFlat"\n\nRW 8192 FLAT "{extent}" 0\n'
        )
        return path

    return make


def _vmdk_hidden_text(disk: Path) -> Path:
    """A sparse extent of no capacity: QEMU reads a descriptor out of it."""
    path = made(disk, "vmdk")
    data = bytearray(path.read_bytes())
    data[12:20] = bytes(8)
    path.write_bytes(data)
    return path


def _vmdk_split(disk: Path) -> Path:
    return made(disk, "vmdk", "-o", "subformat=monolithicFlat")


def _vmdk_parent(disk: Path) -> Path:
    path = disk.with_name("child.vmdk")
    parent = made(disk, "vmdk")
    qemu_img("create", "-f", "vmdk", "-b", parent, "-F", "vmdk", path)
    return path


def _encrypted(disk: Path) -> Path:
    key = disk.with_name("key")
    key.write_text("x" * 8)
    path = disk.with_name("locked.qcow2")
    options = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10"
    for _ in range(20):  # QEMU may fail to measure how fast it hashes
        with contextlib.suppress(subprocess.CalledProcessError):
            secret = f"secret,id=k,file={key}"
            qemu_img("create", "--object", secret, "-f", "qcow2", "-o", options, path, "4M")
            break
    return path


def _huge(disk: Path) -> Path:
    path = disk.with_name("huge.qcow2")
    qemu_img("create", "-f", "qcow2", path, "3T")
    return path


def _magic(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(disk: Path) -> Path:
        path = disk.with_name(name)
        path.write_bytes(content)
        return path

    return make


def _truncated(format: str, *options: str) -> Callable[[Path], Path]:
    def make(disk: Path) -> Path:
        path = made(disk, format, *options)
        os.truncate(path, path.stat().st_size - 100_000)
        return path

    return make


def _pipe(disk: Path) -> Path:
    path = disk.with_name("pipe")
    os.mkfifo(path)
    return path


def _circular(disk: Path) -> Path:
    """Every L1 entry of a qcow2 is the L1 table itself."""
    path = made(disk, "qcow2")
    data = bytearray(path.read_bytes())
    size, at = struct.unpack_from(">IQ", data, 36)
    for entry in range(size):
        struct.pack_into(">Q", data, at + 8 * entry, at | 1 << 63)
    path.write_bytes(data)
    return path


def _many_snapshots(disk: Path) -> Path:
    path = made(disk, "qcow2")
    data = bytearray(path.read_bytes())
    struct.pack_into(">IQ", data, 60, 0xFFFFFFFF, 65536)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_backing, "backing file"),
        (_json_backing, "backing file"),
        (_data_file, "in another file"),
        (_vmdk_text("/etc/shadow"), "in other files"),
        (_vmdk_text("/dev/zero"), "in other files"),
        (_vmdk_hidden_text, "in other files"),
        (_vmdk_split, "in other files"),
        (_vmdk_parent, "backing file"),
        (_encrypted, "encrypted"),
        (_huge, "has a size of"),
        (_truncated("qcow2"), "cut short"),
        (_truncated("qcow2", "-c"), "cut short|cannot be read"),
        (_truncated("vmdk"), "cut short|cannot be read"),
        (_truncated("vdi"), "cut short|cannot be read"),
        (_truncated("vhdx"), "cut short|cannot be read"),
        (_circular, "broken|cannot be read"),
        (_many_snapshots, "cannot be read"),
        (_magic("short.qcow2", b"QFI\xfb\0\0\0\3"), "cut short"),
        (_magic("old.qcow", b"QFI\xfb\0\0\0\1" + bytes(1000)), "qcow version 1"),
        (_magic("short.vmdk", b"KDMV"), "cut short"),
        (_magic("junk.vhdx", b"vhdxfile" + os.urandom(2 * MIB - 8)), "cannot be read"),
        (_magic("junk.vdi", bytes(64) + b"\x7f\x10\xda\xbe" + os.urandom(MIB)), "cut short|cannot be read"),
        (_magic("disk.img.gz", b"\x1f\x8b\x08" + os.urandom(1000)), "gzip"),
        (_magic("machine.ova", bytes(257) + b"ustar\0" + bytes(1000)), "tar archive"),
        (_magic("empty", b""), "no known format"),
        (_magic("letter.txt", b"Dear Sir or Madam\n" * 100), "no known format"),
        (_pipe, "not a file"),
        (lambda disk: disk.parent, "not a file"),
        (lambda disk: disk.with_name("nothing"), "does not exist"),
        (lambda disk: Path("/dev/zero"), "not a file"),
        (lambda disk: disk.with_name("x" * 300), "cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_good_is_refused_with_the_reason(
    disk: Path, make: Callable[[Path], Path], says: str
) -> None:
    path = make(disk)
    began = time.monotonic()
    with pytest.raises(InvalidInput, match=says) as caught:
        check(path)
    assert time.monotonic() - began < 10 and "\n" not in caught.value.message
    assert not [one for one in psutil.Process().children(recursive=True) if one.name() == "qemu-img"]


def test_nothing_that_an_image_names_is_opened(disk: Path, tmp_path: Path) -> None:
    """A pipe that is opened for reading lets its writer in: nobody may come to read it."""
    pipe = tmp_path / "named"
    os.mkfifo(pipe)
    for make in (_vmdk_text(str(pipe)), _vmdk_text("named")):
        with pytest.raises(InvalidInput):
            check(make(disk))
        with pytest.raises(OSError, match="No such device"):
            os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # ENXIO: it has no reader


def test_a_wrong_format_is_named(disk: Path) -> None:
    with pytest.raises(InvalidInput, match="is qcow2, not vmdk"):
        check(made(disk, "qcow2"), ImageFormat.VMDK)
    with pytest.raises(InvalidInput, match="is not vhdx"):
        check(disk, ImageFormat.VHDX)


def test_names_of_files_are_only_names(disk: Path, tmp_path: Path) -> None:
    for name in (
        "nbd:localhost:1",
        "json:{}",
        "-f",
        "a,file.filename=b",
        "é\n\x1b[31m",
        "fat:rw:x",
    ):
        path = tmp_path / name
        path.write_bytes(disk.read_bytes())
        assert check(path).virtual_bytes == 4 * MIB


def test_a_bomb_is_ended_at_the_limit(tmp_path: Path) -> None:
    """A megabyte that decompresses to a gigabyte."""
    raw, bomb = tmp_path / "raw", tmp_path / "bomb.qcow2"
    with raw.open("wb") as file:
        for _ in range(256):
            file.write(b"\xaa" * MIB)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, bomb)
    raw.unlink()
    assert bomb.stat().st_size < 2 * MIB
    source, out = check(bomb), tmp_path / "out"
    with pytest.raises(Exhausted, match="more than"):
        imported(source, out, replace(USUAL, written_bytes=32 * MIB))
    assert sum(path.stat().st_size for path in out.iterdir()) <= 33 * MIB
    free = os.statvfs(tmp_path)
    with pytest.raises(Exhausted, match="disk is full"):
        imported(source, out, replace(USUAL, spare_bytes=free.f_frsize * free.f_bavail + GIB))


def test_sparse_is_cheap(tmp_path: Path) -> None:
    """A terabyte of nothing takes next to nothing, neither space nor time."""
    sparse = tmp_path / "sparse.qcow2"
    qemu_img("create", "-f", "qcow2", sparse, "1T")
    began = time.monotonic()
    arrived = imported(check(sparse), tmp_path / "out")
    assert arrived.size_bytes < 64 * MIB and time.monotonic() - began < 30


def test_time_and_memory_are_limited(disk: Path, tmp_path: Path) -> None:
    source = check(disk)
    with pytest.raises(InvalidInput, match="cannot be read"):
        imported(source, tmp_path / "out", replace(USUAL, memory_bytes=16 * MIB))
    slow = tmp_path / "slow.raw"
    with slow.open("wb") as file:
        file.truncate(8 * GIB)
        for at in range(0, 8 * GIB, 8 * MIB):
            file.seek(at)
            file.write(b"\x01")
    with pytest.raises(InvalidInput, match="took more than 1 s"):
        imported(check(slow, ImageFormat.RAW), tmp_path / "out", replace(USUAL, convert_s=1))
    assert not [one for one in psutil.Process().children(recursive=True) if one.name() == "qemu-img"]


_FORMATS = ("qcow2", "vmdk", "vhdx", "vdi")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    raw = folder / "disk.raw"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + os.urandom(65536) + bytes(MIB))
    return {format: made(raw, format).read_bytes() for format in _FORMATS}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    format=st.sampled_from(_FORMATS),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 17), st.binary(min_size=1, max_size=16)), min_size=1, max_size=6
    ),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_no_damage_does_harm(
    samples: dict[str, bytes],
    tmp_path: Path,
    format: str,
    changes: list[tuple[int, bytes]],
    cut: int | None,
) -> None:
    """Whatever is changed in an image: it is imported or refused, in bounded time, and nothing else."""
    data = bytearray(samples[format])
    for somewhere, new in changes:
        at = somewhere % min(len(data), 4096)  # headers and tables are where it hurts
        data[at : at + len(new)] = new
    path = tmp_path / "damaged"
    path.write_bytes(data[:cut])
    limits = replace(USUAL, written_bytes=16 * MIB, look_s=5, convert_s=5)
    try:
        imported(check(path, limits=limits), tmp_path / "out", limits)
    except SupercloudError as error:
        assert isinstance(error, (InvalidInput, Exhausted)) and "\n" not in error.message


@given(st.binary(max_size=600), st.sampled_from([None, *ImageFormat]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_first_bytes_confuse_us(tmp_path: Path, head: bytes, given_format: ImageFormat | None) -> None:
    path = tmp_path / "head"
    path.write_bytes(head)
    try:
        assert recognize(path, given_format) in ImageFormat.__members__.values()
    except InvalidInput as error:
        assert error.message
