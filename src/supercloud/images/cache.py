"""Where built images are kept: one directory for each key, appearing whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_SCRATCH = ".building-"


def cache_directory() -> Path:
    """`$SUPERCLOUD_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("SUPERCLOUD_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("supercloud")


def file_digest(path: Path) -> str:
    """`sha256:` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(paths: Iterable[Path], *words: str) -> str:
    """One digest over the names and bytes of files, and over `words`; the order does not matter."""
    lines = sorted(f"{path.name} {file_digest(path)}" for path in paths) + sorted(words)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One builder at a time; the others wait and then find the result."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str) -> Path | None:
    """The directory of `kind` and `key` if it was built."""
    found = _place(kind, key)
    return found if found.is_dir() else None


def _place(kind: str, key: str) -> Path:
    return cache_directory() / kind / key.removeprefix("sha256:")[:16]


def built(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory of `kind` and `key`; `build` fills it if need be. Interrupted, it leaves nothing."""
    base = cache_directory() / kind
    found = _place(kind, key)
    if found.is_dir():
        return found
    with locked(base):
        if found.is_dir():
            return found
        for left in base.glob(f"{_SCRATCH}*"):  # of a builder that was killed: nobody else builds now
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=base))
        try:
            scratch.chmod(0o755)
            build(scratch)
            scratch.replace(found)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return found
