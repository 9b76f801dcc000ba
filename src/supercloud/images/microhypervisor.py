"""The micro-hypervisor's image, built from its sources beside this package by its own Makefile."""

from __future__ import annotations

import shutil
from pathlib import Path

from supercloud.images.cache import built, cached, digest_of, file_digest
from supercloud.images.debian import run, say
from supercloud.model.errors import NotFound

SOURCES = Path(__file__).parents[3] / "microhypervisor"
IMAGE = "microhypervisor.elf"
_KIND = "microhypervisor"
_KINDS = frozenset({".c", ".h", ".S", ".asl", ".ld"})
_APART = frozenset({"build", "bench", "loader", "proofs", "tests", "tools"})  # not in the image


def sources_digest() -> str:
    """Changes when anything of ours that can change the image changes.

    Raises:
        NotFound: the sources are not there.
    """
    makefile = SOURCES / "Makefile"
    if not makefile.is_file():
        raise NotFound(f"there are no sources of the micro-hypervisor in {SOURCES}")
    found = [path for path in SOURCES.rglob("*") if path.suffix in _KINDS and path.is_file()]
    ours = [path for path in found if path.relative_to(SOURCES).parts[0] not in _APART]
    names = [f"{path.relative_to(SOURCES)} {file_digest(path)}" for path in ours]
    return digest_of([Path(__file__), makefile], *names)


def build_microhypervisor() -> Path:
    """The directory of the built image, from the cache where it is there.

    Raises:
        NotFound: the sources are not there.
        Failed: gcc, iasl or libsodium is missing, or says no.
    """
    return built(_KIND, sources_digest(), _build)


def built_microhypervisor() -> Path:
    """The image of today's sources. Raises NotFound unless it is built."""
    found = cached(_KIND, sources_digest())
    if found is None:
        raise NotFound("no micro-hypervisor of these sources is built here", hint="make images")
    return found / IMAGE


def _build(into: Path) -> None:
    say("micro-hypervisor: compiling")
    scratch = into / "build"
    run(["make", "-C", str(SOURCES), f"BUILD={scratch}", str(scratch / IMAGE)])
    # What a debugger wants names this directory, and no loader reads it.
    run(["objcopy", "--strip-debug", str(scratch / IMAGE), str(into / IMAGE)])
    shutil.rmtree(scratch)
