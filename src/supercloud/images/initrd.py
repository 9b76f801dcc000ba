"""The blanket's initrd: busybox, a few modules in the order they need, and one script, as a cpio archive."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from supercloud.model.errors import Failed

_DIRECTORIES = ("bin", "dev", "memory", "modules", "new", "proc", "root", "sys")


class _Cpio:
    """Writes the `newc` format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        encoded = name.encode() + b"\0"
        self._inode += 1
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        self._out.write(b"070701" + b"".join(b"%08X" % field for field in fields))
        self._padded(encoded)
        self._padded(data)

    def end(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return self._out.getvalue()

    def _padded(self, data: bytes) -> None:
        self._out.write(data)
        self._out.write(b"\0" * (-self._out.tell() % 4))


def make_initrd(busybox: bytes, init: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """The gzipped archive; `modules` are loaded in the order given. The same input gives the same bytes."""
    cpio = _Cpio()
    for directory in _DIRECTORIES:
        cpio.add(directory, 0o040755)
    cpio.add("bin/busybox", 0o100755, busybox)
    cpio.add("init", 0o100755, init)
    for number, (name, data) in enumerate(modules):
        cpio.add(f"modules/{number:02}-{name}.ko", 0o100644, data)
    return gzip.compress(cpio.end(), mtime=0)


def in_order(wanted: Sequence[str], depends: str) -> dict[str, str]:
    """Modules by name, each after those that it needs, with their paths below their kernel's directory.

    Args:
        wanted: their names; what they need need not be said. It changes with a kernel's point releases.
        depends: its `modules.dep` (modules.dep(5)), which has a line for each of its modules.

    Raises:
        Failed: the kernel has no such module.
    """
    paths, needs = {}, {}
    for line in depends.splitlines():
        path, _, others = line.partition(":")
        paths[_module(path)] = path
        needs[_module(path)] = [_module(other) for other in others.split()]
    order: dict[str, str] = {}

    def visit(name: str) -> None:
        if name not in paths:
            raise Failed(f"the kernel has no module {name}")
        for other in needs[name]:
            visit(other)
        order.setdefault(name, paths[name])

    for name in wanted:
        visit(_module(name))
    return order


def _module(path: str) -> str:
    """The kernel's name for it."""
    return PurePosixPath(path).stem.replace("-", "_")


class Root:
    """A root file system in a tarball, as far as an initrd and a boot need it."""

    def __init__(self, tarball: Path) -> None:
        self._files: dict[str, bytes] = {}
        with tarfile.open(tarball) as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if member.isfile() and _wanted(path):
                    data = tar.extractfile(member)
                    self._files[path] = data.read() if data else b""

    @property
    def kernel(self) -> bytes:
        return self._one("boot/vmlinuz-*")

    @property
    def busybox(self) -> bytes:
        return self._one("*bin/busybox")

    def modules(self, wanted: Sequence[str]) -> list[tuple[str, bytes]]:
        """`wanted` and what they depend on, each after its dependencies.

        Raises:
            Failed: the kernel has no such module.
        """
        by_name = {_module(path): path for path in self._files if path.endswith(".ko")}
        depends = self._one("*lib/modules/*/modules.dep").decode()
        return [(name, self._files[by_name[name]]) for name in in_order(wanted, depends)]

    def _one(self, pattern: str) -> bytes:
        found = [data for path, data in self._files.items() if PurePosixPath(path).match(pattern)]
        if not found:
            raise Failed(f"the root file system has no {pattern}")
        return found[0]


def _wanted(path: str) -> bool:
    return (
        path.startswith("boot/vmlinuz-")
        or path.endswith(("bin/busybox", "/modules.dep"))
        or ("lib/modules/" in path and path.endswith(".ko"))
    )
