"""The bundle: the code that runs in a blanket, with its dependencies, as a read-only image of its own.

It is apart from the root so that an upgrade of the agent replaces a few megabytes, and the blanket image's
digest does not change with our code.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from supercloud.images.cache import built, digest_of
from supercloud.images.debian import SOURCE_DATE_EPOCH, run, say

PACKAGE = Path(__file__).parents[1]
LOCK = Path(__file__).parent / "recipe" / "bundle.lock"
_PYTHON = (3, 11)
#: What runs in a blanket. import-linter keeps these from importing anything else of ours.
PARTS = (
    "model",
    "ports",
    "wire",
    "trust",
    "security",
    "blanket",
    "agent",
    "keeper",
    "observer",
    "logs",
    "heap",
)
#: Of these parts, what no blanket needs: tokens, Sigma's syntax and replays are for people, and the libraries
#: of the former stay outside.
_LEFT_OUT = frozenset(
    PACKAGE / name for name in ("trust/tokens.py", "security/sigma.py", "security/replay.py")
)


def bundle_path() -> Path:
    """The bundle of the code as it is now, from the cache where it is there."""
    found = sources()
    key = digest_of([Path(__file__), LOCK], *_named(found), sys.version)
    return built("bundle", key, _build) / "bundle.squashfs"


def sources() -> list[Path]:
    """The files of our own that it holds."""
    found = [PACKAGE / "__init__.py"]
    for part in PARTS:
        folder = PACKAGE / part
        here = set(folder.rglob("*.py")) if folder.is_dir() else {folder.with_suffix(".py")}
        found += sorted(here - _LEFT_OUT)
    return found


def _named(paths: list[Path]) -> list[str]:
    """Two files of one base name must not hide each other's exchange."""
    return [f"{path.relative_to(PACKAGE)} {digest_of([path])}" for path in paths]


def _build(into: Path) -> None:
    say("bundle: installing the agent and what it needs")
    site = into / "site"
    _install(_dependencies(), site)
    for source in sources():
        target = site / "supercloud" / source.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    _compile(into)
    run(
        [
            "mksquashfs",
            str(into / "site"),
            str(into / "bundle.squashfs"),
            "-keep-as-directory",
            "-quiet",
            "-no-progress",
            "-comp",
            "lz4",
            "-reproducible",
            "-mkfs-time",
            str(SOURCE_DATE_EPOCH),
            "-all-time",
            str(SOURCE_DATE_EPOCH),
            "-all-root",
            "-no-xattrs",
        ]
    )
    shutil.rmtree(site)


def _compile(into: Path) -> None:
    """Compile for a blanket's Python, Debian 12's 3.11; what another version makes would be ignored there.

    In a process of its own: the bytes depend on what else the process had interned, and on its hash seed.
    """
    if sys.version_info[:2] != _PYTHON:
        return
    options = ["-q", "-s", str(into), "--invalidation-mode", "unchecked-hash"]
    run([sys.executable, "-P", "-m", "compileall", *options, str(into / "site")], env={"PYTHONHASHSEED": "0"})


def _dependencies() -> Path:
    """The wheels, installed once for each lock."""

    def install(into: Path) -> None:
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
                "--python-version=3.11",
                "--implementation=cp",
                "--platform=manylinux_2_36_x86_64",
                "--platform=manylinux_2_34_x86_64",
                "--platform=manylinux_2_28_x86_64",
                "--platform=manylinux_2_17_x86_64",
                "--platform=manylinux2014_x86_64",
                "--no-compile",
                f"--target={into / 'site'}",
                f"--requirement={LOCK}",
            ]
        )
        shutil.rmtree(into / "site" / "bin", ignore_errors=True)

    return built("bundle-dependencies", digest_of([LOCK]), install) / "site"


def _install(dependencies: Path, site: Path) -> None:
    shutil.copytree(dependencies, site, symlinks=True)
